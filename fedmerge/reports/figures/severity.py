"""Accuracy by the severity of the scanner shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.formatting import percent
from fedmerge.reports.figures.panels import (
    MOST_LINES,
    Board,
    head,
    line_styles,
    means,
    metric_words,
    natural,
    nothing_worth,
    number_of,
    panels,
    tidy,
)
from fedmerge.reports.figures.style import WIDE, Caption, message, styled

PALER = "#c3c9d0"


@styled
def severity(
    curve: pd.DataFrame, compare: str, metric: str = "balanced_accuracy", width: float = WIDE
) -> Figure:
    """Draw a line for each level: the metric on images without shift (severity 0) and at severities 1 to 5.

    Shaded is the 95 % interval. Of more than eight levels the seven best on average are in colour.
    """
    shown, caption = _shown(curve, compare), describe_severity(curve, compare, metric)
    if shown.rows.empty:
        return message(width, caption.title)
    strata, look = shown.strata, _line_styles(shown, metric)
    made, grid = panels(
        width, 3.0 if len(strata) == 1 else 2.2, len(strata), caption.title, _label(shown),
        legend=_legend(shown, look),
    )  # fmt: skip
    low, high = _limits(shown.rows)
    for axes, stratum in zip(grid, strata, strict=True):
        rows = shown.rows[shown.rows["stratum"] == stratum]
        for level, line in rows.groupby("level", sort=False):
            _line(axes, line, look.get(str(level)))
        axes.set_xticks(sorted(shown.rows["severity"].unique()))
        axes.set_xlim(shown.rows["severity"].min() - 0.2, shown.rows["severity"].max() + 0.2)
        axes.set_ylim(low, high)
        if stratum:
            head(axes, stratum, width, len(strata))
    made.supylabel(f"{metric_words(metric)} (%)", fontsize=9)
    return made


def describe_severity(curve: pd.DataFrame, compare: str, metric: str = "balanced_accuracy") -> Caption:
    """Describe the curves in words: the best at the highest severity, and the score of each without shift.

    A small loss alone is no merit: a model that is bad without shift has little to lose.
    """
    shown = _shown(curve, compare)
    rows, words = shown.rows, metric_words(metric)
    if rows.empty:
        return Caption(f"No {words} under shift was measured", "There is no severity to draw.")
    first, last = int(rows["severity"].min()), int(rows["severity"].max())
    ends = pd.DataFrame({at: means(rows[rows["severity"] == at], "mean") for at in (first, last)}).dropna()
    if first == last or ends.empty:
        return Caption(f"{words.capitalize()} at one severity alone, {first}", f"{_each(shown)}.")
    sign = scale_of(metric).sign
    order = sorted(ends.index, key=lambda level: (-sign * ends[last][level], natural(level)))
    able = [level for level in order if level in shown.worth]
    best, worst = (able or order)[0], order[-1]
    start = "without shift" if first == 0 else f"at severity {first}"
    title = f"{best} has {percent(ends[last][best])} {words} at severity {last}{shown.average}"
    if len(order) > 1:
        title = title.replace(" has ", f" is best of {number_of(len(order), compare)}: ", 1)
    title += f", {percent(ends[first][best])} {start}"
    if len(order) > 1:
        title += f"; {worst} {percent(ends[last][worst])}, {percent(ends[first][worst])} {start}"
    if not able:
        title = f"{nothing_worth(metric, ends[first])} {start}"
    return Caption(title, f"{words.capitalize()} by severity from {first} to {last}. {_each(shown)}.")


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return one range for all panels, so that slopes can be compared."""
    values = 100 * rows[["low", "mean", "high"]].to_numpy(dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.06 * max(high - low, 1.0)
    return low - room, high + room


def _each(shown: Board) -> str:
    parts = []
    for (stratum, level), line in shown.rows.groupby(["stratum", "level"], sort=False):
        name = f"{level}, {stratum}" if stratum else str(level)
        parts.append(f"{name}: {', '.join(percent(value) for value in line['mean'])}")
    return "; ".join(parts)


def _shown(curve: pd.DataFrame, compare: str) -> Board:
    shown = tidy(curve, compare, by=("severity",))
    return shown._replace(rows=shown.rows[shown.rows["mean"].notna()])


def _line_styles(shown: Board, metric: str) -> dict[str, dict[str, Any]]:
    """Return colour and marker of the levels that are drawn in colour."""
    if len(shown.levels) <= MOST_LINES:
        return line_styles(shown.levels)
    sign = scale_of(metric).sign
    middle = sign * shown.rows.groupby("level")["mean"].mean()
    ranked = sorted(middle.index, key=lambda level: (-middle[level], natural(level)))
    return line_styles(sorted(ranked[: MOST_LINES - 1], key=natural))


def _line(axes: Axes, line: pd.DataFrame, look: dict[str, Any] | None) -> None:
    if look is None:
        axes.plot(line["severity"], 100 * line["mean"], color=PALER, linewidth=0.8, zorder=1.5)
        return
    axes.plot(line["severity"], 100 * line["mean"], markersize=4, linewidth=1.4, **look)
    axes.fill_between(
        line["severity"], 100 * line["low"], 100 * line["high"], color=look["color"], alpha=0.13, linewidth=0
    )


def _legend(shown: Board, look: dict[str, dict[str, Any]]) -> list[Line2D]:
    entries = [Line2D([], [], markersize=4, linewidth=1.4, label=name, **look[name]) for name in look]
    others = len(shown.levels) - len(look)
    return entries + [Line2D([], [], color=PALER, linewidth=0.8, label=f"{others} others")] * bool(others)


def _label(shown: Board) -> str:
    return "; ".join(
        ["severity of the shift (0: none)", *shown.mark, *([shown.note] if shown.joined else [])]
    )
