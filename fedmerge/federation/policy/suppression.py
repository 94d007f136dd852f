"""Suppress small counts: as 0 (``suppressed``) or in words (``told``), and enough others that the total does
not reveal them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def suppressed(counts: Sequence[int], below: int) -> list[int]:
    """Return ``counts`` with 0 for each that is below ``below``, and for as many others as necessary.

    The total is known, so the sum of the hidden counts is known, too. It is over at least two classes and at
    least ``below`` images, or nothing is hidden; if the counts are too few for that, all are hidden.
    """
    order = sorted((count, place) for place, count in enumerate(counts) if count)
    hidden = [entry for entry in order if entry[0] < below]
    if not hidden:
        return list(counts)
    for entry in order[len(hidden) :]:
        if len(hidden) > 1 and sum(count for count, _ in hidden) >= below:
            break
        hidden.append(entry)
    places = {place for _, place in hidden}
    return [0 if place in places else count for place, count in enumerate(counts)]


def suppressed_findings(counts: Sequence[int], images: int, below: int) -> list[int]:
    """Return counts of images with each finding, with 0 for those that tell of fewer than ``below`` images.

    Findings do not add up to the images, so none gives away another; but with the number of images known, a
    count also tells how many are without: both must be 0 or at least ``below``.
    """
    return [0 if 0 < count < below or 0 < images - count < below else count for count in counts]


def told(counts: Sequence[int], least: int) -> list[Any]:
    """Return counts with those from 1 to ``least`` - 1 as "<least", and others "hidden" where necessary.

    Whoever knows the sum of all counts knows the sum of those not told: these must be at least two, and their
    sum at least ``least``.
    """
    order = sorted((count, place) for place, count in enumerate(counts) if count)
    hidden = {place for count, place in order if count < least}
    small = bool(hidden) and len(counts) > 1
    for _, place in order:
        if not small or (len(hidden) > 1 and sum(counts[each] for each in hidden) >= least):
            break
        hidden.add(place)
    return [f"<{least}" if 0 < n < least else "hidden" if i in hidden else n for i, n in enumerate(counts)]


def told_findings(counts: Sequence[int], images: int, least: int) -> list[Any]:
    """Return counts of images by finding: small ones as "<least", "hidden" where few are without."""
    return [f"<{least}" if 0 < n < least else "hidden" if 0 < images - n < least else n for n in counts]
