"""Privacy of a federation: what the server and the users of a model may learn of one hospital.

``central`` clips and noises updates at the server, ``local`` at each hospital; ``accounting`` tells epsilon.
``secure_round`` and ``secure_sum`` mask updates, so that the server sees only sums.
"""
