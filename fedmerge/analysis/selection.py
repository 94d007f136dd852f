"""Choose a level by a score of the training hospitals, without looking at the unseen one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedmerge.analysis.cube import DECIMALS, finished, severities, strata
from fedmerge.analysis.metrics.contract import METRICS
from fedmerge.errors import FedMergeError, unknown


def select(
    table: pd.DataFrame, axes: Sequence[str], by: str = "validation", within: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose the levels of ``axes`` with the highest mean of ``by`` over seeds and sites, in each stratum.

    Returns (chosen, kept): chosen has one row per stratum with columns *within, *axes and ``by`` (the winning
    mean); kept are the table's rows, finished or not, clean and shifted, of the chosen levels.
    A candidate that lacks a seed or site competes only if all do. Ties go to the first in order of
    appearance.
    Raises FedMergeError if ``by`` is a score of the unseen hospital, if a column is unknown, or if a stratum
    has no value to choose by.
    """
    if by in METRICS:
        raise FedMergeError(
            f"'{by}' is measured on test images, and a choice must not look at those: select by 'validation'."
        )
    for name in (*axes, by, *within, "seed", "site"):
        if name not in table:
            raise unknown("column", name, map(str, table.columns))
    if not axes:
        raise FedMergeError("nothing to select: name at least one axis.")
    rows = finished(table)
    rows = rows[severities(rows) == 0]
    if rows.empty:
        raise FedMergeError(f"no finished row is on clean images, so there is nothing to select by '{by}'.")
    chosen = [(*key, *_best(part, axes, by, within, key)) for key, part in strata(rows, within)]
    frame = pd.DataFrame(chosen, columns=[*within, *axes, by])
    picked = pd.MultiIndex.from_frame(frame[[*within, *axes]])
    kept = table[pd.MultiIndex.from_frame(table[[*within, *axes]]).isin(picked)]
    return frame, kept


def _best(
    rows: pd.DataFrame, axes: Sequence[str], by: str, within: Sequence[str], key: tuple[object, ...]
) -> tuple[object, ...]:
    """The levels of the axes with the highest mean, and that mean."""
    candidates = rows.groupby([*axes], sort=False).ngroup()
    scores = rows.pivot_table(index=["seed", "site"], columns=candidates, values=by, aggfunc="mean")
    if scores.empty:
        where = ", ".join(f"{name} {value}" for name, value in zip(within, key, strict=True))
        raise FedMergeError(
            f"no row{f' of {where}' if where else ''} has a '{by}' score, so there is nothing to select by: "
            "name another column, or leave such rows out."
        )
    whole = scores.notna().all()
    means = (scores.loc[:, whole] if whole.any() else scores).mean().round(DECIMALS)
    first = rows[candidates == means.idxmax()].iloc[0]
    return (*(first[axis] for axis in axes), float(means.max()))
