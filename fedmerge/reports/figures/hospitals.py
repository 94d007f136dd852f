"""The scores of each level, hospital by hospital."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.formatting import count, percent
from fedmerge.experiment.summary.unlearned import CONSTANT, MARK
from fedmerge.reports.figures.panels import (
    Board,
    head,
    metric_words,
    natural,
    nothing_worth,
    number_of,
    panels,
    shortened,
    tidy,
)
from fedmerge.reports.figures.style import (
    INK,
    PALE,
    PALETTE,
    WIDE,
    Caption,
    letters,
    message,
    styled,
    wrapped,
)

CELL, NAMES = 0.42, 1.6
"""Inches: the least width of a cell with a number, and the room for the levels' names."""
DARKEST = 0.6
"""Where in the map of blues the highest number lies, so that dark type is readable on every cell."""


@styled
def site_scores(frame: pd.DataFrame, compare: str, width: float = WIDE, metric: str = "accuracy") -> Figure:
    """Draw a heat map with numbers, levels by hospitals, in %; each level's worst hospital is outlined.

    Levels stand with the best mean first, hospitals with the easiest first; hospitals that do not fit
    beside each other stand in a further block below.
    """
    shown, caption = _shown(frame, compare), describe_site_scores(frame, compare, metric)
    if shown.rows.empty:
        return message(width, caption.title)
    levels, sites = _order(shown.rows, "level", metric), _order(shown.rows, "site", metric)
    fit = max(int((width - NAMES) / CELL), 1)
    blocks = np.array_split(np.array(sites, dtype=object), -(-len(sites) // fit))
    sheets = [(stratum, list(block)) for stratum in shown.strata for block in blocks]
    heads, heading, upright = _headings([str(site) for site in sites], (width - NAMES) / len(blocks[0]))
    names = ["\n".join(wrapped(shortened(level, 60), NAMES - 0.1)) for level in levels]
    tall = 0.12 + 0.14 * max(name.count("\n") + 1 for name in names)
    made, grid = panels(
        width, 0.25 + heading + 0.3 * bool(shown.over) + tall * len(levels), len(sheets), caption.title,
        _label(shown, metric), columns=1, legend=_legend() if len(sites) > 1 else [],
    )  # fmt: skip
    values = 100 * shown.rows["mean"]
    for axes, (stratum, block) in zip(grid, sheets, strict=True):
        rows = shown.rows[shown.rows["stratum"] == stratum]
        table = rows.pivot_table(index="level", columns="site", values="mean").reindex(
            index=levels, columns=sites
        )
        _cells(axes, 100 * table[block], float(values.min()), float(values.max()), _constant(rows))
        if len(sites) > 1:
            _outline(axes, table, block, metric)
        axes.set_yticks(np.arange(len(levels)) + 0.5, names)
        axes.set_xticks(np.arange(len(block)) + 0.5, [heads[site] for site in block])
        axes.tick_params(axis="x", labelrotation=90 if upright else 0)
        if stratum:
            head(axes, stratum, width, 1)
    return made


def describe_site_scores(frame: pd.DataFrame, compare: str, metric: str = "accuracy") -> Caption:
    """Describe the numbers in words: each level's worst and best hospital."""
    shown, words = _shown(frame, compare), metric_words(metric)
    if shown.rows.empty:
        return Caption("No hospital has a score", f"There is no {words} to show.")
    sign = scale_of(metric).sign
    table = shown.rows.groupby(["level", "site"])["mean"].mean().unstack()
    scores = {
        level: {site: float(table[site][level]) for site in _order(shown.rows, "site", metric)}
        for level in _order(shown.rows, "level", metric)
    }
    worst, best = ({level: _extreme(row, way * sign) for level, row in scores.items()} for way in (-1, 1))
    least = {level: scores[level][site] for level, site in worst.items()}
    often = Counter(worst.values())
    hardest = min(often, key=lambda site: (-often[site], natural(site)))
    able = [level for level in least if level in shown.worth]
    kept = max(able or least, key=lambda level: sign * least[level])
    at_worst = f"{percent(least[kept])} {words}"
    if len(table.columns) == 1:
        title = f"{kept} has {at_worst} at {hardest}, the only hospital"
    elif len(table) == 1:
        title = f"{kept} is worst at {hardest}, {at_worst}"
    else:
        title = f"{hardest} is the worst hospital for {often[hardest]} of {number_of(len(table), compare)}; "
        title += (
            f"{kept} keeps the most at its worst, {at_worst}"
            if sign > 0
            else f"{kept} errs least at its worst, {at_worst}"
        )
    if not able:
        title = nothing_worth(metric, table.max())
    each = "; ".join(
        f"{level}: worst {worst[level]} {percent(row[worst[level]])}, "
        f"best {best[level]} {percent(row[best[level]])}"
        for level, row in scores.items()
    )
    return Caption(
        title, f"{words.capitalize()} at {count(len(table.columns), 'hospital')}{shown.average}. {each}."
    )


def _extreme(scores: dict[str, float], sign: int) -> str:
    """Return the site with the highest score times ``sign``; of equal ones the last column."""
    return max(reversed(scores), key=lambda site: -np.inf if np.isnan(scores[site]) else sign * scores[site])


def _shown(frame: pd.DataFrame, compare: str) -> Board:
    shown = tidy(frame, compare, by=("site",))
    return shown._replace(rows=shown.rows[shown.rows["mean"].notna()])


def _order(rows: pd.DataFrame, column: str, metric: str) -> list[str]:
    """Order names by their mean, best first; equal ones by name."""
    sign = scale_of(metric).sign
    middle = sign * rows.groupby(column)["mean"].mean()
    return sorted(middle.index, key=lambda name: (-middle[name], natural(name)))


def _headings(sites: list[str], cell: float) -> tuple[dict[str, str], float, bool]:
    """Return the hospitals' names as set below their columns, their height in inches, whether upright.

    They lie in lines as long as a cell is wide if every word fits into it.
    """
    if max(len(word) for site in sites for word in site.split()) > letters(cell, 8.0):
        upright = {site: shortened(site, 26) for site in sites}
        return upright, 0.075 * max(map(len, upright.values())), True
    lying = {site: wrapped(shortened(site, 60), cell, 8.0) for site in sites}
    return (
        {site: "\n".join(lines) for site, lines in lying.items()},
        0.14 * max(map(len, lying.values())),
        False,
    )


def _constant(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the levels and hospitals where most measurements give every image one class."""
    if "constant" not in rows:
        return set()
    return set(rows.loc[rows["constant"] > 0.5, ["level", "site"]].itertuples(index=False, name=None))


def _cells(axes: Axes, table: pd.DataFrame, low: float, high: float, constant: set[tuple[str, str]]) -> None:
    """Draw the numbers on their colours; those of constant classifiers are marked."""
    top = low + max(high - low, 1e-6) / DARKEST
    values = np.ma.masked_invalid(table.to_numpy(dtype=float))
    axes.pcolormesh(values, cmap="Blues", vmin=low, vmax=top, edgecolors="white", linewidth=1.5)
    axes.set_facecolor(PALE)
    for (row, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
        text = "–" if np.isnan(value) else f"{value:.1f}"
        cell: tuple[object, object] = (table.index[row], table.columns[column])
        text += f" {MARK}" * (cell in constant)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, table: pd.DataFrame, block: list[str], metric: str) -> None:
    """Draw a frame around each level's worst hospital, where it is in this block."""
    sign = scale_of(metric).sign
    for row, (_, scores) in enumerate((sign * table).iterrows()):
        if scores.notna().any() and (worst := str(scores[::-1].idxmin())) in block:
            axes.add_patch(
                Rectangle(
                    (block.index(worst) + 0.04, row + 0.06),
                    0.92,
                    0.88,
                    fill=False,
                    edgecolor=PALETTE[3],
                    linewidth=1.6,
                    zorder=3,
                )
            )


def _legend() -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker="s",
            markersize=9,
            color=PALETTE[3],
            markerfacecolor="none",
            markeredgewidth=1.6,
            label="the level's worst hospital",
        )
    ]


def _mark(shown: Board) -> list[str]:
    return [CONSTANT] if shown.mark or _constant(shown.rows) else []


def _label(shown: Board, metric: str) -> str:
    return "; ".join(
        [f"numbers: mean {metric_words(metric)} in %", *_mark(shown), *([shown.note] if shown.joined else [])]
    )
