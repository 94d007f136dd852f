"""The difference of each level to the reference, stratum by stratum."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.formatting import count
from fedmerge.experiment.summary.unlearned import marked
from fedmerge.reports.figures.panels import (
    PHONE,
    Board,
    among,
    between,
    head,
    in_a_row,
    means,
    metric_words,
    natural,
    number_of,
    panels,
    shortened,
    signed,
    tidy,
)
from fedmerge.reports.figures.style import FAINT, INK, PALETTE, SMALL, WIDE, Caption, message, styled, wrapped


@styled
def forest(
    board: pd.DataFrame, compare: str, reference: str | None, metric: str = "accuracy", width: float = WIDE
) -> Figure:
    """Draw each level's paired difference to the reference, in points, with its 95 % interval.

    ``board`` is a leaderboard. The reference is the line at zero. Best first, in the same order in all
    panels; a dot is filled where its interval excludes zero. A star marks levels without a value in every
    cell.
    """
    shown = _shown(board, compare, reference)
    caption = describe_forest(board, compare, reference, metric)
    if shown.rows.empty:
        return message(width, caption.title)
    order, strata = _order(shown.rows, metric), shown.strata
    names = _names(order, shown.rows, width)
    step = 0.09 + 0.13 * max(name.count("\n") + 1 for name in names)
    made, grid = panels(
        width, 0.75 + step * len(order), len(strata), caption.title, _label(shown, str(reference), metric),
        legend=_legend(shown.rows),
    )  # fmt: skip
    line = _line_name(board, compare, str(reference))
    across = in_a_row(len(strata), width)
    for i, (axes, stratum) in enumerate(zip(grid, strata, strict=True)):
        rows = shown.rows[shown.rows["stratum"] == stratum].set_index("level").reindex(order)
        _dots(axes, rows)
        axes.set_xlim(*_limits(shown.rows))
        _reference(axes, line, 16 if across > 1 else 28)
        axes.set_yticks(np.arange(len(order)), names if i % across == 0 else [""] * len(order))
        if len(strata) == 1:
            _numbers(axes, rows, brief=width < PHONE)
        if stratum:
            head(axes, stratum, width - 1.0, len(strata))
    return made


def describe_forest(
    board: pd.DataFrame, compare: str, reference: str | None, metric: str = "accuracy"
) -> Caption:
    """Describe the differences in words."""
    shown = _shown(board, compare, reference)
    rows = shown.rows
    if rows.empty:
        return Caption(
            "There is no reference to compare with"
            if reference is None
            else f"Nothing to compare with {reference}",
            f"The leaderboard has no difference of one {compare} to another.",
        )
    sign = scale_of(metric).sign
    middle = means(rows, "difference")
    worth = bool(rows.get("reference_worth", pd.Series(True)).astype(bool).any())
    title = _title(shown, middle, reference, metric, worth)
    near, far = ("difference_low", "difference_high") if sign > 0 else ("difference_high", "difference_low")
    above, under = int((sign * rows[near] > 0).sum()), int((sign * rows[far] < 0).sum())
    if worth and rows[["difference_low", "difference_high"]].notna().all(axis=1).any():
        title += (
            f"; of {count(len(rows), 'interval')} {above} {'is' if above == 1 else 'are'} better than zero "
        )
        title += f"and {under} worse"
    each = []
    for stratum in shown.strata:
        part = (
            rows[rows["stratum"] == stratum]
            .set_index("level")
            .reindex(_order(rows, metric))
            .dropna(how="all")
        )
        dots = [
            f"{name} {signed(row['difference'])}{between(row['difference_low'], row['difference_high'])}"
            for name, row in part.iterrows()
        ]
        each.append(f"{stratum}: {', '.join(dots)}" if stratum else ", ".join(dots))
    return Caption(
        title,
        f"Difference of {number_of(rows['level'].nunique(), compare)} to {reference} in points, with "
        f"95\u00a0% interval. {'; '.join(each)}.",
    )


def _title(shown: Board, middle: pd.Series, reference: str | None, metric: str, worth: bool) -> str:
    """Say which level is best against the reference; or that reference or levels are at chance."""
    sign, words = scale_of(metric).sign, metric_words(metric)
    if not worth:
        return f"{reference} is no better than guessing, so being above it in {words} is no gain"
    able = among(middle, shown.worth)
    if able.empty:
        return f"Of {len(middle)} none is above chance, so none gains on {reference} in {words}"
    best = str((sign * able).idxmax())
    gain = sign * middle[best]
    verb = "is best against" if gain > 0 else "comes closest to" if gain < 0 else "is level with"
    return f"{best} {verb} {reference}: {signed(middle[best])} points of {words}{shown.average}"


def _line_name(board: pd.DataFrame, compare: str, reference: str) -> str:
    """Return the name of the line at zero: the reference, marked where it is a constant classifier."""
    return next((name for name in tidy(board, compare).levels if name == marked(reference, 1.0)), reference)


def _shown(board: pd.DataFrame, compare: str, reference: str | None) -> Board:
    """Return all levels with a difference but the reference, which is the line at zero."""
    whole = tidy(board, compare)
    rows = whole.rows
    names = [str(reference), marked(str(reference), 1.0)]
    return whole._replace(rows=rows[rows["difference"].notna() & ~rows["level"].isin(names)])


def _order(rows: pd.DataFrame, metric: str) -> list[str]:
    """Order levels best first, by the mean over strata; equal ones by name."""
    sign = scale_of(metric).sign
    middle = sign * rows.groupby("level")["difference"].mean()
    return sorted(middle.index, key=lambda level: (-middle[level], natural(level)))


def _excludes(rows: pd.DataFrame) -> pd.Series:
    return (rows["difference_low"] > 0) | (rows["difference_high"] < 0)


def _starred(rows: pd.DataFrame) -> set[str]:
    """Return the levels that lack a value in some cell."""
    return set(rows.loc[~rows["complete"].astype(bool), "level"]) if "complete" in rows else set()


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    values = 100 * rows[["difference", "difference_low", "difference_high"]].to_numpy(dtype=float)
    low, high = min(np.nanmin(values), 0.0), max(np.nanmax(values), 0.0)
    room = 0.06 * max(high - low, 0.5)
    return low - room, high + room


def _dots(axes: Axes, rows: pd.DataFrame) -> None:
    at, colour = np.arange(len(rows)), PALETTE[0]
    low, middle, high = (100 * rows[name] for name in ("difference_low", "difference", "difference_high"))
    axes.hlines(at, low, high, color=colour, linewidth=1.3)
    for filled, group in pd.Series(at, index=rows.index).groupby(_excludes(rows)):
        axes.plot(
            middle[group.index], group, "o", color=colour, markersize=5.5,
            markerfacecolor=colour if filled else "white",
        )  # fmt: skip
    axes.set_ylim(len(rows) - 0.4, -1.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def _reference(axes: Axes, name: str, length: int) -> None:
    """Draw the line at zero and its name, in the row above the dots, on the side with more room."""
    axes.axvline(0, color=INK, linewidth=0.9)
    low, high = axes.get_xlim()
    right = high > -low
    axes.annotate(
        shortened(name, length), (0, -0.85), xytext=(3 if right else -3, 0), textcoords="offset points",
        ha="left" if right else "right", va="center", fontsize=SMALL, color=FAINT,
    )  # fmt: skip


def _names(order: list[str], rows: pd.DataFrame, width: float) -> list[str]:
    """Return the levels' names, long ones in several lines."""
    room, starred = (2.2, _starred(rows)) if width >= PHONE else (1.35, _starred(rows))
    return ["\n".join(wrapped(shortened(level, 60) + "*" * (level in starred), room)) for level in order]


def _label(shown: Board, reference: str, metric: str) -> str:
    parts = [f"points of {metric_words(metric)} against {reference}"]
    parts += ["*: has no value in some cells"] if _starred(shown.rows) else []
    return "; ".join([*parts, *shown.mark, *([shown.note] if shown.joined else [])])


def _numbers(axes: Axes, rows: pd.DataFrame, brief: bool) -> None:
    for i, (_, row) in enumerate(rows.iterrows()):
        text = signed(row["difference"])
        if not brief:
            text += between(row["difference_low"], row["difference_high"])
        axes.text(
            1.02, i, text, va="center", fontsize=SMALL, color=INK, transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def _legend(rows: pd.DataFrame) -> list[Line2D]:
    """Return a legend for filled and hollow dots; hollow ones may have an interval or none."""
    known, inside = rows["difference_low"].notna(), ~_excludes(rows)
    entries = []
    if (~inside).any():
        entries.append(("interval without zero", PALETTE[0]))
    if (inside & known).any():
        entries.append(("interval holds zero", "white"))
    elif (~known).any():
        entries.append(("no interval", "white"))
    return [
        Line2D(
            [],
            [],
            marker="o",
            color=PALETTE[0],
            markerfacecolor=fill,
            markersize=5.5,
            linestyle="",
            label=name,
        )
        for name, fill in entries
    ]
