"""Suppress small counts: report them as 0, and enough others that the total does not reveal them."""

from __future__ import annotations

from collections.abc import Sequence


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
