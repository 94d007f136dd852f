"""A table of differences between our results and the same formulas written out anew, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-9


class Row(NamedTuple):
    """What was compared, and the largest difference, relative to the largest number of the formula."""

    name: str
    difference: float
    tolerance: float


def compare(name: str, ours: Any, formula: Any, tolerance: float = TOLERANCE) -> Row:
    """One row; infinite where the shapes differ or a number of ours is not finite."""
    a, b = (np.asarray(value, dtype=np.float64) for value in (ours, formula))
    if a.shape != b.shape or not np.isfinite(a).all():
        return Row(name, float("inf"), tolerance)
    return Row(name, float(np.abs(a - b).max() / max(1e-300, np.abs(b).max())), tolerance)


def report(rows: Iterable[Row]) -> int:
    """Print the table; 1 where a difference is above its tolerance, else 0."""
    known = list(rows)
    width = max(len(row.name) for row in known)
    print(f"{'method':<{width}}  largest difference  tolerance")
    for row in known:
        fault = "" if row.difference <= row.tolerance else "  <- above"
        print(f"{row.name:<{width}}  {row.difference:18.1e}  {row.tolerance:9.0e}{fault}")
    return int(any(not row.difference <= row.tolerance for row in known))
