"""Flower's Grid for every backend: it carries messages between server and hospitals.

``local`` carries them inside this process, ``ray`` to the worker processes of a Ray cluster, ``flower`` over
the Grid of Flower's own runtimes; ``federation.simulated`` is the base of the first two.
"""
