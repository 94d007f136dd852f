"""What an added scanner shift costs: scores by severity, and errors relative to a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis.cube import (
    CELL,
    check_reference,
    cube,
    levels_of,
    nanmean,
    severities,
    stamped,
    strata,
    usable,
    values_of,
    with_cut_interval,
    with_interval,
)
from fedmerge.analysis.metrics.contract import scale_of


def severity_curve(
    table: pd.DataFrame, compare: str, metric: str = "balanced_accuracy", within: Sequence[str] = ()
) -> pd.DataFrame:
    """The score by severity: columns *within, level, severity (0 = clean, to 5), mean, low, high.

    A mean over seeds and sites of the mean over streams and kinds of shift, with its 95 % interval
    (``crossed_interval``). Severity 0 is taken on the streams that have shifted images, so that the curve is
    of one piece; without shifted images it is all there is. Raises FedMergeError for an unknown column.
    """
    frames = []
    for key, rows in strata(_rows(table, compare, metric, within), within):
        labels = values_of(rows, ("seed", "site", "_severity")) | {compare: levels_of(rows, compare)}
        values = np.moveaxis(cube(rows, metric, labels), 2, 3)
        flat = values.reshape(*values.shape[:2], -1)
        axes = [labels[compare], labels["_severity"]]
        frame = pd.MultiIndex.from_product(axes, names=["level", "severity"]).to_frame(index=False)
        frame[["mean", "low", "high"]] = with_interval(flat, span=scale_of(metric).span)
        frames.append(stamped(frame, within, key))
    return pd.concat(frames, ignore_index=True)


def robustness(
    table: pd.DataFrame,
    compare: str = "method",
    reference: Any = None,
    metric: str = "balanced_accuracy",
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per (*within, level): what shifted images cost, in error = 1 - metric (where less is better: as
    is).

    Columns: *within, level; then
    clean_error, shifted_error: means over seeds and sites; the latter over all kinds and severities;
    increase, increase_low, increase_high: shifted - clean error, paired by seed, site and stream;
    relative_error, relative_error_low, relative_error_high: the sum of the level's errors over kinds and
    severities divided by the reference's, over the cells where both have a value; 1 for the reference, NaN
    without one. That is the corruption error of Hendrycks and Dietterich 2019 (arXiv 1903.12261) on balanced
    error, as in MedMNIST-C. Departure: one ratio of sums over all kinds, not the mean of the kinds' ratios,
    so that a kind on which the reference hardly errs does not decide.

    Without shifted images, all but clean_error is NaN. 95 % intervals: ``crossed_interval``.
    Raises FedMergeError for an unknown column, or a reference that is not a level.
    """
    every = _rows(table, compare, metric, within)
    check_reference(table, compare, reference)
    boards = [
        stamped(_board(rows, compare, reference, metric), within, key) for key, rows in strata(every, within)
    ]
    return pd.concat(boards, ignore_index=True)


def _board(rows: pd.DataFrame, compare: str, reference: Any, metric: str) -> pd.DataFrame:
    labels = values_of(rows, CELL)
    levels = {compare: levels_of(rows, compare)}
    is_clean = rows["_severity"] == 0
    shifts = {"_shift": list(rows.loc[~is_clean, "_shift"].unique())}
    clean = cube(rows[is_clean], metric, labels | levels)
    shifted = cube(rows[~is_clean], metric, labels | shifts | levels)
    if not scale_of(metric).lower:
        clean, shifted = 1 - clean, 1 - shifted
    board = pd.DataFrame({"level": levels[compare]})
    board["clean_error"] = nanmean(nanmean(clean, axis=2), axis=(0, 1))
    by_stream = nanmean(shifted, axis=3)
    board["shifted_error"] = nanmean(nanmean(by_stream, axis=2), axis=(0, 1))
    increase = with_cut_interval(nanmean(by_stream - clean, axis=2), metric)
    board[["increase", "increase_low", "increase_high"]] = increase
    relative = np.full((len(board), 3), math.nan)
    if reference in levels[compare]:
        index = levels[compare].index(reference)
        theirs = np.broadcast_to(shifted[..., [index]], shifted.shape)
        both = np.isfinite(shifted) & np.isfinite(theirs)
        ours, theirs = (np.where(both, each, math.nan) for each in (shifted, theirs))
        relative = with_interval(_total(ours), over=_total(theirs), span=(0.0, math.inf))
    board[["relative_error", "relative_error_low", "relative_error_high"]] = relative
    return board


def _total(errors: np.ndarray) -> np.ndarray:
    """Errors summed over streams and shifts; NaN where none is there."""
    return np.where(np.isfinite(errors).any(axis=(2, 3)), np.nansum(errors, axis=(2, 3)), math.nan)


def _rows(table: pd.DataFrame, compare: str, metric: str, within: Sequence[str]) -> pd.DataFrame:
    """The finished rows on streams that have shifted images, with columns ``_severity`` and ``_shift``."""
    rows = usable(table, compare, metric, within)
    severity = severities(rows)
    kinds = rows["shift"].astype(str) if "shift" in rows else pd.Series("", index=rows.index)
    rows = rows.assign(_severity=severity, _shift=kinds + " " + severity.astype(str))
    streams = rows.loc[severity > 0, "stream"].unique()
    return rows[rows["stream"].isin(streams)] if len(streams) else rows
