"""Paired tests of levels against a reference, corrected for how many there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis.cube import CELL, DECIMALS, check_reference, clean, levels_of
from fedmerge.errors import FedMergeError

EXACT = 16
"""Units up to which every assignment of signs is counted."""
DRAWS = 20_000
"""Assignments drawn for more units."""


def paired_tests(
    table: pd.DataFrame, reference: Any, compare: str = "method", metric: str = "accuracy"
) -> pd.DataFrame:
    """Test whether each level differs from the reference, with hospitals as the units.

    One row a level: level, units, difference (mean over units), p, p_holm. A unit is a site (of a cohort,
    where the table has several): its difference is paired by seed and stream and averaged over both, because
    seeds of one hospital are no further hospitals. p: the exact two-sided randomisation test of Fisher, the
    share of assignments of signs to the units' differences whose mean is at least as far from 0; above 16
    units of 20,000 drawn ones and the one seen. p_holm: Holm's step-down correction over all levels, so that
    all statements with p_holm below 0.05 are right together in 95 % of studies. With n units p is at least
    2^(1 - n): of four hospitals nothing can be below 0.125.

    Raises FedMergeError for an unknown column, a reference that is not a level, and where no pair is
    complete.
    """
    usable = clean(table, compare, metric)
    check_reference(table, compare, reference)
    where = [name for name in ("cohort", *CELL) if name in usable]
    units = [name for name in ("cohort", "site") if name in usable]
    wide = usable.pivot_table(index=where, columns=compare, values=metric)
    rows = []
    for level in levels_of(table, compare):
        if level == reference or level not in wide or reference not in wide:
            continue
        paired = (wide[level] - wide[reference]).round(DECIMALS)
        paired = paired[np.isfinite(paired)]
        differences = paired.groupby(level=units).mean().to_numpy(dtype=float)
        if len(differences):
            p = randomisation_p(differences)
            rows.append({"level": level, "units": len(differences), "difference": differences.mean(), "p": p})
    if not rows:
        raise FedMergeError(f"nothing can be tested: no level has a '{metric}' where '{reference}' has one.")
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"].to_numpy()))


def randomisation_p(differences: np.ndarray) -> float:
    """Return the two-sided p of the mean of n differences under random signs (see ``paired_tests``).

    Raises FedMergeError without a difference, and for one that is not finite.
    """
    if not len(differences) or not np.isfinite(differences).all():
        raise FedMergeError(
            f"{len(differences)} differences, not all of them finite, have no p: leave NaN out."
        )
    seen = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if len(differences) <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(differences))))
        return float((np.abs(signs @ differences) >= seen).mean())
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (DRAWS, len(differences)))
    return float((1 + (np.abs(signs @ differences) >= seen).sum()) / (DRAWS + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values: max over j <= i of (m - j + 1) p_(j), at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
