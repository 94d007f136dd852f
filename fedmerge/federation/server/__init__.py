"""The server: it sends requests, checks replies, and makes one model of many updates.

``server`` is a run, ``strategy`` a round. ``client_manager`` sends ``requests`` and reads the replies;
``clients`` greets hospitals, ``failures`` says why one is missing, ``journal`` keeps rounds on disk.
``sums`` asks for the remote statistics of a fusion, ``masked_sums``, ``secure_round`` and ``secure_means`` do
so, and average updates, under masks.
"""
