"""How messages get from the server to hospitals and back: Flower's Grid, for every place they may be.

``local`` carries them inside this process, ``ray`` between the worker processes of a Ray cluster, ``flower``
over the Grid that Flower's own runtimes give; ``simulated`` is what the first two share.
"""
