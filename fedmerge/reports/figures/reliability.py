"""Reliability diagrams: whether a model is right as often as it is sure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.experiment.formatting import count, percent
from fedmerge.reports.figures.panels import MOST_PANELS, Board, among, head, natural, panels, plain, tidy
from fedmerge.reports.figures.style import FAINT, PALE, PALETTE, WIDE, Caption, message, styled

MOST = 6


@styled
def reliability(frame: pd.DataFrame, width: float = WIDE) -> Figure:
    """Draw a panel for each level: accuracy against confidence by bin; on the diagonal they are equal.

    ``frame`` has the compared axis in the column before ``bin``, strata before that, and low, high, n,
    confidence and accuracy. Rows of one level and bin are pooled. A panel's title has the expected
    calibration error, ECE = sum over bins of n / N |accuracy - confidence|, of what is drawn; bars are the
    share of images. Of more than six levels the three best and the three worst calibrated are drawn; where
    strata times levels are more than twelve, strata are pooled.
    """
    bins, caption = _bins(frame), describe_reliability(frame)
    if bins.empty:
        return message(width, caption.title)
    errors = _errors(bins)
    made, grid = panels(width, 2.3, len(errors), caption.title, _label(frame, bins), legend=_legend())
    for axes, (stratum, level) in zip(grid, errors.index, strict=True):
        rows = bins[(bins["stratum"] == stratum) & (bins["level"] == level)]
        _panel(axes, rows)
        name = f"{level}, {stratum}" if stratum else str(level)
        head(axes, f"{name}: ECE {percent(errors[(stratum, level)])}", width, len(errors))
    made.supylabel("% of the bin's images that are right", fontsize=9)
    return made


def describe_reliability(frame: pd.DataFrame) -> Caption:
    """Describe the calibration in words."""
    bins = _bins(frame)
    if bins.empty:
        return Caption("No reliability was measured", "There is no bin with an image.")
    compare, errors = _compare(frame), _errors(bins)
    middle = errors.groupby("level").mean()
    able = among(middle, _tidy(frame).worth)
    best, worst = str((middle if able.empty else able).idxmin()), str(middle.idxmax())
    title = f"{best} is off by {percent(middle[best])} (ECE)"
    if len(middle) > 1:
        title = f"{best} is the best calibrated, off by {percent(middle[best])} (ECE), {worst} the worst, "
        title += f"by {percent(middle[worst])}"
    if able.empty:
        title = f"Nothing is above chance; {worst} is off by {percent(middle[worst])} (ECE)"
    each = []
    for stratum, level in errors.index:
        rows = bins[(bins["stratum"] == stratum) & (bins["level"] == level)]
        sure, right = (np.average(rows[name], weights=rows["n"]) for name in ("confidence", "accuracy"))
        each.append(
            f"{level}{f', {stratum}' * bool(stratum)}: ECE {percent(errors[(stratum, level)])}, right on "
            f"{percent(right)} of {count(int(rows['n'].sum()), 'image')} and {percent(sure)} sure"
        )
    return Caption(title, f"By {plain(compare)}, {'; '.join(each)}.")


def _compare(frame: pd.DataFrame) -> str:
    """Return the compared axis: the column before ``bin``."""
    names = [str(name) for name in frame.columns]
    return names[max(names.index("bin") - 1, 0)]


def _tidy(frame: pd.DataFrame) -> Board:
    table = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    return tidy(table, _compare(table), by=("bin",), join=False)


def _bins(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per stratum, level and bin with images, of the levels and strata that are drawn."""
    shown = _tidy(frame)
    levels = min(len(shown.levels), MOST)
    rows = shown.rows.assign(stratum="") if len(shown.strata) * levels > MOST_PANELS else shown.rows
    rows = rows[rows["n"] > 0]
    weighted = rows.assign(**{name: rows[name] * rows["n"] for name in ("confidence", "accuracy")})
    keys = ["stratum", "level", "bin", "low", "high"]
    bins = weighted.groupby(keys, sort=False)[["n", "confidence", "accuracy"]].sum().reset_index()
    bins[["confidence", "accuracy"]] = bins[["confidence", "accuracy"]].div(bins["n"], axis=0)
    if len(shown.levels) <= MOST:
        return bins
    middle = _errors(bins).groupby("level").mean()
    ranked = sorted(middle.index, key=lambda level: (middle[level], natural(level)))
    return bins[bins["level"].isin([*ranked[: MOST // 2], *ranked[-MOST // 2 :]])]


def _errors(bins: pd.DataFrame) -> pd.Series:
    """Return the ECE by stratum and level, in the order of the panels: best calibrated level first."""
    gaps = bins["n"] * (bins["accuracy"] - bins["confidence"]).abs()
    groups = [bins["stratum"], bins["level"]]
    errors = gaps.groupby(groups, sort=False).sum() / bins["n"].groupby(groups, sort=False).sum()
    middle = errors.groupby("level").mean().to_dict()
    order = sorted(errors.index, key=lambda at: (natural(at[0]), middle[at[1]], natural(at[1])))
    return errors.reindex(order)


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    edges = 100 * rows[["low", "high"]].to_numpy(dtype=float)
    shares = 100 * rows["n"] / rows["n"].sum()
    axes.bar(
        edges[:, 0], shares, width=edges[:, 1] - edges[:, 0], align="edge", color=PALE, edgecolor="white"
    )
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=0.9, linestyle="--")
    axes.plot(
        100 * rows["confidence"], 100 * rows["accuracy"], "o-", color=PALETTE[0], markersize=4, linewidth=1.3
    )
    axes.set(xlim=(0, 101), ylim=(0, 103), xticks=range(0, 101, 25), yticks=range(0, 101, 25))


def _label(frame: pd.DataFrame, bins: pd.DataFrame) -> str:
    shown, parts = _tidy(frame), ["confidence (%)"]
    if len(shown.levels) > MOST:
        parts.append(f"of {len(shown.levels)} the three best and the three worst calibrated")
    if len(shown.strata) > bins["stratum"].nunique():
        parts.append(f"{shown.over} pooled")
    return "; ".join([*parts, *shown.mark])


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=PALETTE[0], marker="o", markersize=4, linewidth=1.3, label="a bin"),
        Line2D([], [], color=FAINT, linewidth=0.9, linestyle="--", label="as right as sure"),
        Line2D([], [], color=PALE, marker="s", markersize=8, linestyle="", label="% of all images"),
    ]
