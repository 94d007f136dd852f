"""What may be wrong with hospitals' images.

``checks`` are the remarks at the start of a run; ``report`` is the whole check of ``fedmerge sites check``,
with ``lookalikes`` and ``intensity``.
"""
