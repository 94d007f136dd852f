"""Lines and dots by setting, means over seeds with their range: the forms of the pages' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedmerge.reports.figures.panels import head, line_styles, panels, shortened
from fedmerge.reports.figures.style import FAINT, PALETTE, WIDE, styled

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f}")


@styled
def lines(
    frame: pd.DataFrame,
    title: str,
    labels: tuple[str, str],
    *,
    cases: Mapping[str, str],
    columns: int = 3,
    log: bool = False,
    percent: bool = True,
) -> Figure:
    """Draw a panel for each setting, a line for each case: value by x, mean and range over seeds.

    labels: of the axes. cases: names in the legend by case, in order; others are left out.
    """
    settings = list(dict.fromkeys(frame["setting"]))
    look = line_styles(list(cases))
    legend = [Line2D([], [], label=name, **look[case]) for case, name in cases.items()]
    made, grid = panels(WIDE, 1.9, len(settings), title, labels[0], legend=legend, columns=columns)
    for axes, setting in zip(grid, settings, strict=True):
        part = frame[frame["setting"] == setting]
        for case in cases:
            by = part[part["case"] == case].groupby("x")["value"]
            mean = by.mean()
            axes.plot(mean.index, mean, markersize=3.5, linewidth=1.1, **look[case])
            axes.fill_between(
                mean.index, by.min(), by.max(), color=look[case]["color"], alpha=0.15, linewidth=0
            )
        head(axes, setting, WIDE, len(settings), columns)
        if log:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=float(frame["x"].max()) > 2))
        if percent:
            axes.yaxis.set_major_formatter(PERCENT)
    for axes in grid[:: min(columns, len(grid))]:
        axes.set_ylabel(labels[1])
    return made


@styled
def dots(
    frame: pd.DataFrame,
    title: str,
    label: str,
    *,
    cases: Mapping[str, str],
    columns: int = 2,
    zero: bool = False,
    percent: bool = True,
) -> Figure:
    """Draw a panel for each setting, a row for each case: a dot a seed, a diamond their mean."""
    settings = list(dict.fromkeys(frame["setting"]))
    made, grid = panels(WIDE, 0.6 + 0.2 * len(cases), len(settings), title, label, columns=columns)
    for number, (axes, setting) in enumerate(zip(grid, settings, strict=True)):
        part = frame[frame["setting"] == setting]
        for place, case in enumerate(cases):
            values = part.loc[part["case"] == case, "value"]
            if len(values):
                axes.plot(values, [place] * len(values), "o", color=PALETTE[5], markersize=3.5, alpha=0.8)
                axes.plot(values.mean(), place, "D", color=PALETTE[0], markersize=5)
        names = [shortened(name, 30) for name in cases.values()]
        axes.set_yticks(range(len(cases)), names if number % columns == 0 else [""] * len(cases))
        axes.set_ylim(len(cases) - 0.5, -0.5)
        if zero:
            axes.axvline(0, color=FAINT, linewidth=0.9)
        if percent:
            axes.xaxis.set_major_formatter(PERCENT)
        head(axes, setting, WIDE, len(settings), columns)
    return made


def of(frame: pd.DataFrame, part: str, metric: str, cases: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of a part and metric, and of some cases."""
    found = frame[(frame["part"] == part) & (frame["metric"] == metric)]
    return found[found["case"].isin(cases)] if cases else found


def share(value: float) -> str:
    """A share in per cent, rounded: ``48 %``."""
    return f"{100 * value:.0f} %"
