"""Study: the experiment, and many of them. Config in, table and report out.

``config`` says what, ``experiment`` is the journey of one seed, ``run`` does one configuration, ``bench`` a
matrix of them, ``results`` and ``reports`` are what is left.
"""
