"""Label sets as strata: what streams and partitions take for an image's class where it has several labels."""

from __future__ import annotations

import numpy as np

RARE = 20
"""A label set of fewer images is no stratum of its own."""


def strata(labels: np.ndarray) -> np.ndarray:
    """Return a stratum for each image: int64 N, from 0 without a gap where labels are several.

    labels: N, which are returned as they are; or N x F of 0 and 1. An image's stratum is its label set. A set
    that fewer than 20 images have would be a stratum of a few, which rounding sends to one hospital: its
    images count as those of the set's rarest finding alone. Ours; exact balance of every finding would take
    iterative stratification (Sechidis et al. 2011).
    """
    if labels.ndim == 1:
        return labels
    sets, whose, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    commoner = np.argsort(np.argsort(-labels.sum(axis=0), kind="stable"), kind="stable")  # rarest: largest
    reduced = sets.copy()
    for row in np.flatnonzero(counts < RARE):
        found = np.flatnonzero(sets[row])
        if len(found):
            reduced[row] = 0
            reduced[row, found[commoner[found].argmax()]] = 1
    codes = np.unique(reduced, axis=0, return_inverse=True)[1].reshape(-1)
    found_codes: np.ndarray = codes[whose.reshape(-1)].astype(np.int64)
    return found_codes
