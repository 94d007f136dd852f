"""Comparisons on clean images: cells side by side, paired differences, ranks, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis.chance import learning, learning_at
from fedmerge.analysis.cube import (
    CELL,
    DECIMALS,
    check_reference,
    clean,
    cube,
    finished,
    levels_of,
    nanmean,
    stamped,
    strata,
    values_of,
    with_cut_interval,
    with_interval,
)
from fedmerge.analysis.intervals import Array
from fedmerge.analysis.metrics.contract import COSTS, METRICS, scale_of

STANDING = ["constant", "chance", "majority", "learned", "worth"]
PAIRED = ["difference", "difference_low", "difference_high", "wins", "losses", "ties"]


def cells(
    table: pd.DataFrame, compare: str, metric: str = "accuracy", within: Sequence[str] = ()
) -> pd.DataFrame:
    """Clean scores side by side: index (*within, seed, site, stream), one column per level of ``compare``.

    A cell is NaN where a level did not finish, or finished fewer of the rows that fall in it (an axis that is
    not in ``within``) than another level. Raises FedMergeError for an unknown column and for a table without
    a finished clean row.
    """
    usable, levels = clean(table, compare, metric, within), levels_of(table, compare)
    frames = []
    for key, rows in strata(usable, within):
        labels = values_of(rows, CELL) | {compare: levels}
        values = cube(rows, metric, labels).reshape(-1, len(levels))
        axes = [*([part] for part in key), *(labels[name] for name in CELL)]
        index = pd.MultiIndex.from_product(axes, names=[*within, *CELL])
        frames.append(pd.DataFrame(values, index, pd.Index(levels, name=compare)).dropna(how="all"))
    return pd.concat(frames)


def leaderboard(
    table: pd.DataFrame,
    compare: str = "method",
    reference: Any = None,
    metric: str = "accuracy",
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per (*within, level) on clean images, best first within each stratum.

    Columns: *within, level; then
    mean, low, high: over seeds and sites (streams averaged first), with the 95 % interval;
    difference, difference_low, difference_high: level minus reference, paired by seed, site and stream where
    both have a value; NaN without a reference, 0 for the reference itself;
    wins, losses, ties: the number of those pairs in which the level is better, worse, equal;
    rank: its average rank over the cells, 1 = best, equal ones share theirs;
    worst, worst_low, worst_high: the worst site's score in each seed, then the mean and interval over seeds;
    seeds, sites: how many have a value; complete: a value in every cell in which any level has one;
    constant, chance, majority, learned, worth: what it is beside guessing (``analysis.learning``), and
    reference_worth, that of the reference (True without one);
    and the means of the metrics and ``COSTS`` that the table has.

    Intervals are those of ``crossed_interval``; of scores with ends (``Scale.span``) on the scale of
    log-odds, of differences as they are, cut where no difference can be. What is better, ``Scale.lower``
    says. A level that never finished is there with NaN; a stratum without a finished row is not. Raises
    FedMergeError for an unknown column, or a reference that is not a level.
    """
    usable = clean(table, compare, metric, within)
    check_reference(table, compare, reference)
    levels = {key: levels_of(rows, compare) for key, rows in strata(table, within)}
    boards = [
        stamped(_board(rows, compare, levels[key], reference, metric), within, key)
        for key, rows in strata(usable, within)
    ]
    board = pd.concat(boards, ignore_index=True)
    counts = [name for name in ("wins", "losses", "ties") if board[name].notna().all()]
    return board.astype(dict.fromkeys(counts, int))


def difference(
    table: pd.DataFrame, level: Any, reference: Any, compare: str = "method", metric: str = "accuracy"
) -> dict[str, float]:
    """One level minus another on clean images: the columns ``PAIRED`` of ``leaderboard`` alone.

    Raises FedMergeError for an unknown column, or a level that is not there.
    """
    usable = clean(table, compare, metric)
    pair = list(dict.fromkeys([reference, level]))
    for each in pair:
        check_reference(table, compare, each)
    rows = usable[usable[compare].isin(pair)]
    values = cube(rows, metric, values_of(rows, CELL) | {compare: pair})
    sign = scale_of(metric).sign
    found = dict(zip(PAIRED, _against(values, 0, sign, metric)[-1].tolist(), strict=True))
    return found | {name: int(found[name]) for name in ("wins", "losses", "ties")}


def by_site(table: pd.DataFrame, compare: str = "method", metric: str = "accuracy") -> pd.DataFrame:
    """Each level's clean score at each site: columns level, site, mean, low, high (interval over seeds).

    Where the table has them, constant and worth: the level beside guessing (``analysis.learning``).
    """
    rows = clean(table, compare, metric)
    labels = values_of(rows, CELL) | {compare: levels_of(table, compare)}
    values = nanmean(cube(rows, metric, labels), axis=2)
    flat = np.moveaxis(values, 1, 2).reshape(len(values), 1, -1)
    index = pd.MultiIndex.from_product([labels[compare], labels["site"]], names=["level", "site"])
    frame = index.to_frame(index=False)
    frame[["mean", "low", "high"]] = with_interval(flat, span=scale_of(metric).span)
    if "constant" not in rows:
        return frame
    standing = learning_at(rows, compare, metric)[["constant", "worth"]].rename_axis(["level", "site"])
    return frame.merge(standing.reset_index(), how="left", on=["level", "site"])


def interval_rule(table: pd.DataFrame) -> str:
    """Say in words how a table's intervals are made and what they hold for. Sites are counted by cohort."""
    done = finished(table)
    by_cohort = done.groupby("cohort") if "cohort" in done else done.groupby(lambda _: "")
    seeds, sites = by_cohort["seed"].nunique(), by_cohort["site"].nunique()
    levels = {name: n for name, n in (("seeds", seeds), ("sites", sites)) if max(n, default=0) > 1}
    if not levels:
        return "One seed and one site: nothing varies, so there is no interval."
    over = {name: f"{_range(counts)} {name}" for name, counts in levels.items()}
    if len(over) == 2:
        text = (
            f"95 % interval of the mean, for other seeds and other sites: the widest of Student's t over the "
            f"means of the {over['seeds']}, over those of the {over['sites']}, over what neither explains, "
            f"and over all together (analysis of variance, degrees of freedom by Satterthwaite 1946)."
        )
    else:
        name, other = ("seeds", "site") if "seeds" in over else ("sites", "seed")
        text = (
            f"95 % interval of the mean: Student's t over the {over[name]}. It speaks for other {name} with "
            f"the one {other} there is, and says nothing of other {other}s."
        )
    text += " Intervals of scores are taken on the scale of log-odds, those of differences as they are."
    if min(n for n in (*seeds, *sites) if n > 1) == 2:
        text += " Two levels leave one degree of freedom, t = 12.7: such an interval is seldom of use."
    return text


def _range(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return str(high) if low == high else f"{low} to {high}"


def _board(rows: pd.DataFrame, compare: str, levels: list[Any], reference: Any, metric: str) -> pd.DataFrame:
    sign, span = scale_of(metric).sign, scale_of(metric).span
    values = cube(rows, metric, values_of(rows, CELL) | {compare: levels})
    there = np.isfinite(values)
    at_sites = nanmean(values, axis=2)
    low = np.where(np.isnan(at_sites), math.inf, sign * at_sites).min(axis=1, keepdims=True)
    worst = np.where(np.isinf(low), math.nan, sign * low)
    board = pd.DataFrame({"level": levels})
    board[["mean", "low", "high"]] = with_interval(at_sites, span=span)
    board[PAIRED] = _against(values, levels.index(reference) if reference in levels else None, sign, metric)
    ranks = pd.DataFrame(-sign * values.reshape(-1, len(levels))).rank(axis=1)
    board["rank"] = ranks.mean()
    board[["worst", "worst_low", "worst_high"]] = with_interval(worst, span=span)
    board["seeds"] = there.any(axis=(1, 2)).sum(axis=0)
    board["sites"] = there.any(axis=(0, 2)).sum(axis=0)
    board["complete"] = (there == there.any(axis=3, keepdims=True)).all(axis=(0, 1, 2))
    beside = (
        rows.groupby(compare)[[name for name in (*METRICS.names(), *COSTS) if name in rows]]
        .mean()
        .reindex(levels)
    )
    board = board.join(beside.reset_index(drop=True))
    board[STANDING] = learning(rows, compare, metric)[STANDING].reindex(levels).to_numpy()
    known = board[["learned", "worth"]]
    board[["learned", "worth"]] = known.isna() | known.astype(bool)
    board["reference_worth"] = bool(board.loc[board["level"] == reference, "worth"].all())
    return board.iloc[(-sign * board["mean"]).argsort(kind="stable")].reset_index(drop=True)


def _against(values: Array, reference: int | None, sign: float, metric: str) -> Array:
    """The columns ``PAIRED`` (levels x 6) of seeds x sites x streams x levels against one level."""
    if reference is None:
        return np.full((values.shape[3], len(PAIRED)), math.nan)
    paired = (values - values[..., [reference]]).round(DECIMALS)
    counts = [mask.sum(axis=(0, 1, 2)) for mask in (sign * paired > 0, sign * paired < 0, paired == 0)]
    return np.column_stack([with_cut_interval(nanmean(paired, axis=2), metric), *counts])
