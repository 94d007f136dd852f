"""A results table as an array: one axis for each thing that was varied, NaN where a cell is missing.

Where several rows fall in one cell (they differ in a column that is no axis), its value is their mean, and a
level with fewer of them than another level has none there: a mean over less is not comparable. Rows that are
not done, and NaN scores, are missing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis.intervals import Array, crossed_interval, inside
from fedmerge.analysis.metrics.contract import scale_of
from fedmerge.errors import FedMergeError, nearest, unknown

CELL = ("seed", "site", "stream")
DECIMALS = 12
"""Scores that agree to this many decimals are equal: means of the same numbers may differ in the last bit."""

Span = tuple[float, float]
Labels = Mapping[str, Sequence[Any]]


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose status is done; all of them where there is no such column."""
    return table[table["status"] == "done"] if "status" in table else table


def severities(table: pd.DataFrame) -> pd.Series:
    """The severity of each row's shift; 0 (clean images) where there is none, or no such column."""
    if "severity" not in table:
        return pd.Series(0, index=table.index)
    return table["severity"].fillna(0).astype(int)


def usable(table: pd.DataFrame, compare: str, metric: str, within: Sequence[str] = ()) -> pd.DataFrame:
    """The finished rows. Raises FedMergeError if a column is missing, or nothing finished."""
    for name in (compare, metric, *within, *CELL):
        if name not in table:
            raise unknown("column", name, map(str, table.columns))
    if not pd.api.types.is_numeric_dtype(table[metric]):
        raise FedMergeError(f"column '{metric}' does not hold numbers: name a score, such as accuracy.")
    rows = finished(table)
    if rows.empty:
        raise FedMergeError("no row of the table is done, so there is nothing to compare: see its reasons.")
    return rows


def clean(table: pd.DataFrame, compare: str, metric: str, within: Sequence[str] = ()) -> pd.DataFrame:
    """The finished rows on clean images. Raises FedMergeError as ``usable`` does, or if there are none."""
    rows = usable(table, compare, metric, within)
    rows = rows[severities(rows) == 0]
    if rows.empty:
        raise FedMergeError("no finished row of the table is on clean images (severity 0): run those too.")
    return rows


def levels_of(table: pd.DataFrame, compare: str) -> list[Any]:
    """The levels of a column in order of appearance; a failed job's empty entry is no level."""
    return [level for level in table[compare].dropna().unique() if level != ""]


def check_reference(table: pd.DataFrame, compare: str, reference: Any) -> None:
    """Raise FedMergeError, with the nearest level, if the reference is not a level of the compared column."""
    levels = levels_of(table, compare)
    if reference is not None and reference not in levels:
        names = [str(level) for level in levels]
        raise FedMergeError(
            f"the reference '{reference}' is not a level of '{compare}'.{nearest(str(reference), names)} "
            f"Levels: {', '.join(names)}."
        )


def strata(rows: pd.DataFrame, within: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Each stratum's key and rows, in order of appearance; without ``within`` there is one, with key ()."""
    if within:
        yield from rows.groupby([*within], sort=False)
    else:
        yield (), rows


def stamped(frame: pd.DataFrame, within: Sequence[str], key: tuple[Any, ...]) -> pd.DataFrame:
    """The frame of one stratum with the stratum's key in front."""
    for position, (name, value) in enumerate(zip(within, key, strict=True)):
        frame.insert(position, name, value)
    return frame


def values_of(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    """The values of columns, sorted, so that the order of the rows changes no bit."""
    return {name: sorted(rows[name].dropna().unique()) for name in names}


def cube(rows: pd.DataFrame, metric: str, labels: Labels) -> Array:
    """The metric as an array with one axis per entry of ``labels``, the compared column last."""
    shape = tuple(len(each) for each in labels.values())
    size = math.prod(shape)
    values = rows[metric].to_numpy(dtype=float, na_value=math.nan)
    codes = np.stack([pd.Index(each).get_indexer(pd.Index(rows[name])) for name, each in labels.items()])
    keep = (codes >= 0).all(axis=0) & np.isfinite(values)
    flat = np.ravel_multi_index(tuple(codes[:, keep]), shape)
    count = np.bincount(flat, minlength=size).reshape(shape)
    total = np.bincount(flat, weights=values[keep], minlength=size).reshape(shape)
    whole = (count > 0) & (count == count.max(axis=-1, keepdims=True))
    return np.divide(total, count, out=np.full(shape, math.nan), where=whole).round(DECIMALS)


def nanmean(values: Array, axis: int | tuple[int, ...]) -> Array:
    """The mean over an axis of the values that are not NaN; NaN where there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


def with_interval(values: Array, over: Array | None = None, span: Span | None = None) -> Array:
    """Mean, low and high (M x 3) of values (seeds x sites x M), or of the ratio of two such means.

    ``span`` are the least and the greatest value of a score, if it has them (``inside``).
    """
    found = crossed_interval(values, over=over)
    if span is not None:
        found = inside(found, *span)
    return np.stack([found.mean, found.low, found.high], axis=1)


def with_cut_interval(differences: Array, metric: str) -> Array:
    """Mean, low and high (M x 3) of differences of a score, cut to the differences that are possible."""
    least, greatest = scale_of(metric).span or (-math.inf, math.inf)
    return np.clip(with_interval(differences), least - greatest, greatest - least)
