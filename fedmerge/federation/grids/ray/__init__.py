"""Ray: persistent workers that each speak for several hospitals.

``init`` starts Ray or attaches to it, ``backend`` packs hospitals, ``grid`` is Flower's Grid. Behind that,
``dispatcher`` knows where each hospital is and what it keeps, ``transfer`` hands its messages out in order,
``pool`` starts, watches and replaces workers, ``worker`` is what runs in their processes, with the
``numerics`` of the server's.
"""
