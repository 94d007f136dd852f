"""Privacy mechanisms that the server and hospitals share.

``central`` clips and noises updates at the server; ``accounting`` tells epsilon. ``secure_sum`` and
``masked`` are the arithmetic of masks, ``shamir`` shares secrets, ``identity`` and ``secure_keys`` are keys.
A hospital's side is in ``hospital.private_training`` and ``hospital.secure``, the server's in
``server.secure_round``.
"""
