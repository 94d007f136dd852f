"""A fusion whose images stay in the hospitals: they send sums, and the server adds them up.

``server`` asks (``masked``: for sums under masks), ``hospital`` answers, ``packing`` is how sums travel,
``model_cache`` what a hospital lays aside.
"""
