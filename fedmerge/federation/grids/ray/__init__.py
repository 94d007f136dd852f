"""The Ray backend: persistent workers that each run several hospitals.

``init`` starts Ray or attaches to it, ``backend`` packs hospitals, ``grid`` is Flower's Grid. Behind it,
``dispatcher`` knows each hospital's worker and state, ``transfer`` sends messages in order, ``pool`` starts,
watches and replaces workers, and ``worker`` runs in their processes with the ``numerics`` of the server.
"""
