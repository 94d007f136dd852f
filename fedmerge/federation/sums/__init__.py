"""Remote statistics for a fusion: hospitals send sums over their images, and the server adds them up.

``server`` asks (``masked``: for sums under masks), ``hospital`` answers, ``packing`` is the format of sums
in messages, ``session_store`` what a hospital keeps on disk.
"""
