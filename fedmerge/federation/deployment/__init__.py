"""A real deployment: Flower's SuperLink at the server, a SuperNode in each hospital, TLS and a key for each.

``keys`` makes authority, certificates and keys, ``server_folder`` and ``node_folder`` are where they lie,
``gate`` is the server's front door, ``serving`` starts what a folder describes. ``processes`` starts and ends
programs with their children, ``flower`` is Flower's own command line with an honest answer.
"""
