"""A real deployment: Flower's SuperLink at the server, a SuperNode in each hospital, TLS and a key for each.

``processes`` starts and ends programs with their children, ``flower`` is Flower's own command line with an
honest answer.
"""
