"""The target-supervised reference: it looks at the target's labels, so it is an upper bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

Row = dict[str, Any]

ORACLE = "oracle"
"""The kind of its rows."""
BEST_SOURCE = "oracle-best-source"


def best_source(
    rows: Sequence[Row], bins: Sequence[Row], by: str = "accuracy"
) -> tuple[list[Row], list[Row]]:
    """Return rows and calibration bins of the hospital whose model is best at the target, as the oracle's.

    rows, bins: of all hospitals alone at one target, with one seed; nothing is measured again. The best is
    the one with the highest accuracy (or another score, ``by``) on the target's images as they are, averaged
    over the streams; of equals the first. It is one hospital for every stream and scanner shift. Its rows
    have no validation score, so that nothing can be selected by it. Rows of a job that failed are returned as
    they are.
    """
    clean: dict[str, list[float]] = {}
    for row in rows:
        if row.get("kind") == "alone" and row["severity"] == 0:
            clean.setdefault(row["method"], []).append(row[by])
    if not clean:
        return list(rows), list(bins)
    best = max(clean, key=lambda method: fmean(clean[method]))
    own = {"method": BEST_SOURCE, "kind": ORACLE}
    return (
        [row | own | {"validation": math.nan} for row in rows if row["method"] == best],
        [row | own for row in bins if row["method"] == best],
    )
