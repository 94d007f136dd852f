"""A deployment: Flower's SuperLink at the server, a SuperNode in each hospital, TLS and a key for each.

``keys`` makes authority, certificates and keys; ``server_folder`` and ``node_folder`` keep them. ``gate`` is
the server's open port, ``serving`` starts the programs of a folder. ``processes`` starts and ends programs
with their children, ``flower`` calls Flower's command line and reports its failures.
"""
