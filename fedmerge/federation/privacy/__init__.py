"""What the server, and the world, may learn of one hospital.

``central``: clipping and noise, with an accountant, for whoever sees the model. ``secure_round`` and
``secure_sum``: masks, for the server itself, which sees sums alone.
"""
