"""One experiment, and studies of many experiments. A configuration goes in, a table comes out.

``config`` reads the configuration, ``experiment`` carries out one seed, ``run`` one configuration, ``bench``
a study of many; ``results`` holds what a run leaves behind, from which ``reports`` makes the pages.
"""
