"""Suppress small counts, so that nobody can work one out from what is told.

If counts add up to a known total, it is not enough to hide the small ones and some others: with a minimum of
5, two hidden counts that add up to 8 are 4 and 4. So of one division (classes, splits, sizes) all counts are
told, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

HIDDEN = "hidden"


def suppressed(counts: Sequence[int], below: int) -> list[int]:
    """Return ``counts``, or 0 for all of them if one is from 1 to ``below`` - 1."""
    return [0] * len(counts) if _any_small(counts, below) else list(counts)


def told(counts: Sequence[int], least: int) -> list[int | str]:
    """Return ``counts``, or "hidden" for all of them if one is from 1 to ``least`` - 1."""
    return [HIDDEN] * len(counts) if _any_small(counts, least) else list(counts)


def told_alone(count: int, least: int) -> int | str:
    """Return a count that no known total has in it; "<least" if it is from 1 to ``least`` - 1."""
    return f"<{least}" if 0 < count < least else count


def suppressed_findings(counts: Sequence[int], images: int, below: int) -> list[int]:
    """Return counts of images with each finding, with 0 for those that tell of fewer than ``below`` images.

    Findings do not add up to the images, so none gives away another; but with the number of images known, a
    count also tells how many are without: both must be 0 or at least ``below``.
    """
    return [0 if 0 < count < below or 0 < images - count < below else count for count in counts]


def told_findings(counts: Sequence[int], images: int, least: int) -> list[int | str]:
    """Return counts of images by finding: small ones as "<least", "hidden" where few are without."""
    return [f"<{least}" if 0 < n < least else HIDDEN if 0 < images - n < least else n for n in counts]


def _any_small(counts: Sequence[int], least: int) -> bool:
    return any(0 < count < least for count in counts)
