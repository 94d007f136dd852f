"""A cohort: which hospitals there are, and their images divided and prepared.

``spec`` is the file, ``building`` makes a ``cohort`` of it and a seed; ``classes``, ``enough`` and
``preparing`` are its steps, ``content`` hashes what it reads, ``fusion`` draws the images a server may see.
"""
