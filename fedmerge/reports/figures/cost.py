"""Accuracy against its cost: passes through networks, or time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.formatting import count, listing, percent
from fedmerge.reports.figures.panels import (
    MOST_LINES,
    Board,
    among,
    head,
    line_styles,
    means,
    metric_words,
    natural,
    nothing_worth,
    panels,
    plain,
    tidy,
)
from fedmerge.reports.figures.style import FAINT, INK, SMALL, WIDE, Caption, message, styled

COSTS = {
    "forward_passes": "forward passes a prediction",
    "backward_passes": "backward passes a prediction",
    "seconds": "seconds at the site",
    "training_seconds": "seconds of training",
}
SPAN = 10
"""Costs further apart than this factor are drawn on a logarithmic scale."""
DOT = 6.0
"""Half the side of a dot in pixels, with some room."""
LONGEST = 24
"""Letters of a name that may stand at its dot."""
PLACES = [
    (7, 0, "left", "center"), (-7, 0, "right", "center"),
    (0, 6, "center", "bottom"), (0, -6, "center", "top"),
    (5, 5, "left", "bottom"), (5, -5, "left", "top"),
    (-5, 5, "right", "bottom"), (-5, -5, "right", "top"),
]  # fmt: skip
"""Places for a dot's name: offset in points, and alignment; the first free one is taken."""


@styled
def cost(
    board: pd.DataFrame,
    compare: str,
    by: str = "forward_passes",
    width: float = WIDE,
    metric: str = "accuracy",
) -> Figure:
    """Draw a dot for each level: cost, mean and 95 % interval; a thin line joins those that none beats.

    ``board`` is a leaderboard; ``by`` is one of its columns. A level is on the line where no other is at
    least as good for at most its cost. Up to eight names stand at their dots if there is room for them
    without touching; else the legend has them.
    """
    shown, caption = _shown(board, compare, by), describe_cost(board, compare, by, metric)
    if shown.rows.empty:
        return message(width, caption.title)
    look, strata = line_styles(shown.levels), shown.strata
    label = _label(shown, by)
    direct = len(strata) == 1 and len(look) <= MOST_LINES and max(map(len, look)) <= LONGEST
    for named in (True, False) if direct else (False,):
        legend = [] if named else [_dot(name, **look[name]) for name in look]
        made, grid = panels(
            width, 3.0 if len(strata) == 1 else 2.2, len(strata), caption.title, label, legend=legend
        )
        for axes, stratum in zip(grid, strata, strict=True):
            _draw(axes, shown.rows[shown.rows["stratum"] == stratum], by, look, metric)
            _scale(axes, shown.rows[by])
            if stratum:
                head(axes, stratum, width, len(strata))
        made.supylabel(f"mean {metric_words(metric)} (%)", fontsize=9)
        if not named or _names_fit(made, grid[0], shown.rows, by):
            break
    return made


def describe_cost(
    board: pd.DataFrame, compare: str, by: str = "forward_passes", metric: str = "accuracy"
) -> Caption:
    """Describe the dots in words."""
    rows, words = _shown(board, compare, by), COSTS.get(by, plain(by))
    if rows.rows.empty:
        return Caption(f"No {words} were measured", "The leaderboard has no cost to hold the scores against.")
    sign = scale_of(metric).sign
    score, price = means(rows.rows, "mean"), means(rows.rows, by)
    able = among(score, rows.worth)
    best = str((sign * (score if able.empty else able)).idxmax())
    cheapest = min(
        price.index, key=lambda level: (price[level], -sign * score.get(level, np.nan), natural(level))
    )
    title = f"{best} has the best {metric_words(metric)}{rows.average}, {percent(score[best])}"
    if able.empty:
        title = f"{nothing_worth(metric, score)}{rows.average}"
    elif cheapest != best:
        title += f", for {_amount(price[best])} {_unit(price[best], words)}"
        title += f"; {cheapest} has {percent(score[cheapest])} for {_amount(price[cheapest])}"
    else:
        title += f", and nothing costs less ({_amount(price[best])} {_unit(price[best], words)})"
    each = []
    for stratum in rows.strata:
        part = rows.rows[rows.rows["stratum"] == stratum].sort_values(by, kind="stable")
        dots = [f"{row['level']} {percent(row['mean'])} for {_amount(row[by])}" for _, row in part.iterrows()]
        front = list(part[_front(part, by, metric)]["level"])
        beaten = f"; nothing beats {listing(front)}" if front else ""
        each.append(f"{stratum}: " * bool(stratum) + f"{', '.join(dots)}{beaten}")
    return Caption(
        title,
        f"{metric_words(metric).capitalize()} by {words}, {count(len(score), 'dot')}. {'. '.join(each)}.",
    )


def _shown(board: pd.DataFrame, compare: str, by: str) -> Board:
    shown = tidy(board, compare)
    known = shown.rows.get(by, pd.Series(np.nan, index=shown.rows.index)).notna() & shown.rows["mean"].notna()
    return shown._replace(rows=shown.rows[known])


def _front(rows: pd.DataFrame, by: str, metric: str) -> pd.Series:
    """Return which rows no other beats: none is at least as good for at most the cost, and better in one.

    Only rows that may be called best (``worth``) take part.
    """
    if "worth" in rows and not rows["worth"].all():
        able = rows[rows["worth"].fillna(1.0) >= 0.5]
        return _front(able.drop(columns="worth"), by, metric).reindex(rows.index, fill_value=False)
    price = rows[by].to_numpy(dtype=float)
    score = rows["mean"].to_numpy(dtype=float) * scale_of(metric).sign
    as_good = (price[:, None] <= price) & (score[:, None] >= score)
    better = (price[:, None] < price) | (score[:, None] > score)
    return pd.Series(~np.atleast_1d((as_good & better).any(axis=0)), index=rows.index)


def _draw(axes: Axes, rows: pd.DataFrame, by: str, look: dict[str, dict[str, Any]], metric: str) -> None:
    front = rows[_front(rows, by, metric)].sort_values([by, "mean"])
    axes.plot(front[by], 100 * front["mean"], color=FAINT, linewidth=0.9, zorder=1.5)
    for _, row in rows.iterrows():
        style = look[row["level"]]
        axes.vlines(
            row[by], 100 * row["low"], 100 * row["high"], color=style["color"], linewidth=1.2, alpha=0.7
        )
        axes.plot([row[by]], [100 * row["mean"]], markersize=6, linestyle="", **style)


def _scale(axes: Axes, prices: pd.Series) -> None:
    """Make the cost axis logarithmic over a wide span, with a zero to its left where something is free."""
    positive = prices[prices > 0]
    if len(positive) and positive.max() > SPAN * positive.min():
        smallest = float(positive.min())
        if (prices <= 0).any():
            axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
        else:
            axes.set_xscale("log")
            axes.set_xlim(smallest / 1.5, 1.5 * float(positive.max()))
            steps = (1.0, 2.0, 5.0) if positive.max() < 300 * smallest else (1.0,)
            axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda price, _: _amount(price)))
    else:
        if prices.nunique() == 1:
            axes.set_xticks([float(prices.iloc[0])])
        room = 0.12 * max(float(prices.max() - prices.min()), 0.5)
        axes.set_xlim(float(prices.min()) - room, float(prices.max()) + room)
    axes.margins(y=0.12)


def _names_fit(made: Figure, axes: Axes, rows: pd.DataFrame, by: str) -> bool:
    """Write each name where it touches no dot, line or other name; return whether all found a place."""
    made.draw_without_rendering()
    taken, frame = _inked(axes), axes.bbox
    for _, row in rows.iterrows():
        for place in PLACES:
            name = _name(axes, row, by, place)
            box = name.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()
        else:
            return False
    return True


def _inked(axes: Axes) -> list[Bbox]:
    """Return boxes in pixels over the dots, and along the lines of intervals and front."""
    paths = [np.column_stack(line.get_data(orig=False)) for line in axes.lines]
    dots = [axes.transData.transform(path) for path in paths if len(path) == 1]
    paths += [np.asarray(path.vertices) for lines in axes.collections for path in lines.get_paths()]
    boxes = [Bbox.from_extents(*(dot[0] - DOT), *(dot[0] + DOT)) for dot in dots]
    for path in paths:
        for start, end in itertools.pairwise(axes.transData.transform(path)):
            steps = np.linspace(start, end, 2 + int(np.nan_to_num(np.abs(end - start).max()) / 3))
            boxes += [Bbox.from_extents(*(point - 2), *(point + 2)) for point in steps]
    return boxes


def _name(axes: Axes, row: pd.Series, by: str, place: tuple[int, int, str, str]) -> Annotation:
    right, up, ha, va = place
    name = axes.annotate(
        row["level"], (row[by], 100 * row["mean"]), xytext=(right, up),
        textcoords="offset points", ha=ha, va=va, fontsize=SMALL, color=INK,
    )  # fmt: skip
    name.set_in_layout(False)
    return name


def _dot(name: str, color: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, label=name)


def _label(shown: Board, by: str) -> str:
    return "; ".join([COSTS.get(by, plain(by)), *shown.mark, *([shown.note] if shown.joined else [])])


def _unit(value: float, words: str) -> str:
    return words.replace("passes", "pass").replace("seconds", "second") if value == 1 else words


def _amount(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", "\u202f")
