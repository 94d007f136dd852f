"""Shared parts of a study's figures: levels, strata as small panels, colours and markers, and words.

A frame names its levels in the column of the compared axis (or ``level``), as columns or as index; the
columns before it are the strata, each a panel. Of more than twelve strata the mean is drawn. Where the frame
has the columns ``constant`` and ``worth`` (``analysis.learning``), constant classifiers are marked, and no
title calls a level best that is not worth it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.metrics import scale_of
from fedmerge.errors import unknown
from fedmerge.experiment.formatting import count, listing, score_text
from fedmerge.experiment.summary.unlearned import CONSTANT, MARK, marked
from fedmerge.reports.figures.style import MARKERS, TYPE, colours, figure, wrapped

MOST_PANELS, MOST_LINES, PHONE = 12, 8, 5.5


class Board(NamedTuple):
    """A frame ready to be drawn. rows: text columns ``stratum`` and ``level``, then the frame's numbers.

    over: the strata in words ("4 settings of cohort"), empty for one. joined: whether ``rows`` is their mean.
    """

    rows: pd.DataFrame
    compare: str
    over: str
    joined: bool

    @property
    def strata(self) -> list[str]:
        return list(dict.fromkeys(self.rows["stratum"]))

    @property
    def levels(self) -> list[str]:
        return sorted(dict.fromkeys(self.rows["level"]), key=natural)

    @property
    def worth(self) -> list[str]:
        """The levels that may be called best; all without a column ``worth``."""
        if "worth" not in self.rows:
            return self.levels
        means = self.rows.groupby("level")["worth"].mean().fillna(1.0)
        return [level for level in self.levels if means[level] >= 0.5]

    @property
    def mark(self) -> list[str]:
        """The explanation of the mark of constant classifiers, for a label, where a level has the mark."""
        return [CONSTANT] if any(MARK in level for level in self.levels) else []

    @property
    def average(self) -> str:
        """ " on average over 4 settings of cohort", or nothing."""
        return f" on average over {self.over}" if self.over else ""

    @property
    def note(self) -> str:
        """A note for a label where means over strata are drawn."""
        return f"means over {self.over}, bounds included" if self.joined else ""


def tidy(frame: pd.DataFrame, compare: str, by: Sequence[str] = (), *, join: bool = True) -> Board:
    """Sort a frame's rows by stratum, level and the columns ``by``.

    Of more than twelve strata it gives the mean, unless ``join`` is False.

    Numbers in names sort as numbers. Raises FedMergeError where the frame has no column of levels.
    """
    table = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    names = [str(name) for name in table.columns]
    column = compare if compare in names else "level"
    if column not in names:
        raise unknown("column of levels", compare, names)
    within = names[: names.index(column)]
    strata = [_stratum(within, values) for values in table[within].itertuples(index=False)]
    if not within:
        strata = [""] * len(table)
    rows = table.drop(columns=[*within, column])
    rows.insert(0, "stratum", pd.Series(strata, index=table.index, dtype=object))
    rows.insert(1, "level", _named(table, column))
    for name in {"constant", "worth"} & set(names):
        rows[name] = rows[name].astype(float)
    keys = ["stratum", "level", *by]
    marks = [tuple(natural(value) for value in row) for row in rows[keys].itertuples(index=False)]
    rows = rows.iloc[sorted(range(len(rows)), key=marks.__getitem__)].reset_index(drop=True)
    number = rows["stratum"].nunique()
    over = f"{count(number, 'setting')} of {listing([plain(name) for name in within])}" if number > 1 else ""
    joined = join and number > MOST_PANELS
    return Board(_joined(rows, keys[1:], number) if joined else rows, compare, over, joined)


def _named(table: pd.DataFrame, column: str) -> pd.Series:
    """Return the levels as text; a constant classifier is marked in all strata, so a level has one name."""
    names = table[column].astype(str).astype(object)
    if "constant" not in table:
        return names
    shares = table["constant"].astype(float).groupby(names).mean()
    return names.map({name: marked(str(name), share) for name, share in shares.items()})


def _stratum(within: Sequence[str], values: Iterable[Any]) -> str:
    """Return a stratum in words: text as it is, a number with the name of its column."""
    return ", ".join(
        str(value)
        if isinstance(value, str)
        else f"{plain(name)} {value:g}"
        if value == value
        else plain(name)
        for name, value in zip(within, values, strict=True)
    )


def _joined(rows: pd.DataFrame, keys: list[str], number: int) -> pd.DataFrame:
    """Return means over the strata; the name of a level that lacks strata says how many it has."""
    groups = rows.groupby(keys, sort=False)
    numbers = [str(name) for name in rows.select_dtypes(["number", "bool"]).columns if name not in keys]
    means = groups[numbers].mean()
    bounds = [name for name in numbers if name.split("_")[-1] in ("low", "high")]
    for name in bounds:
        means[name] = groups[name].mean().where(groups[name].count() == groups.size())
    means = means.reset_index()
    has = rows.groupby("level")["stratum"].nunique()
    means["level"] = [
        name if has[name] == number else f"{name} ({has[name]} of {number})" for name in means["level"]
    ]
    means.insert(0, "stratum", "")
    return means


def natural(value: object) -> list[Any]:
    """Return a key that sorts "layer2" before "layer10"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(value))
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def means(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return the mean over strata of each level that has as many strata as any level has."""
    groups = rows.dropna(subset=[column]).groupby("level")[column]
    return groups.mean()[groups.count() == groups.count().max()]


def among(values: pd.Series, levels: Sequence[str]) -> pd.Series:
    """Return the values of these levels."""
    return values[values.index.isin(levels)]


def nothing_worth(metric: str, values: pd.Series) -> str:
    """Return a title where no level may be called best. values: the metric by level."""
    most = score_text(metric, float(values.max()))
    return f"Nothing is above chance: {metric_words(metric)} of at most {most}"


def metric_words(metric: str) -> str:
    """Return a metric in words."""
    return scale_of(metric).words


def plain(name: str) -> str:
    return name.replace("_", " ")


def number_of(levels: int, compare: str) -> str:
    """Count levels in words: ``5 methods``, or ``5 levels of training``."""
    return count(levels, "method") if compare == "method" else f"{count(levels, 'level')} of {plain(compare)}"


def signed(difference: float, decimals: int = 1) -> str:
    """Return a difference of shares in points: ``+3.2``; a dash for NaN."""
    if math.isnan(difference):
        return "–"
    text = f"{100 * difference:+.{decimals}f}".replace("-", "−")
    return text if float(text[1:]) else text[1:]


def between(low: float, high: float) -> str:
    """Return an interval in points, in brackets after a space; "" where there is none."""
    return "" if math.isnan(low + high) else f" ({signed(low)} to {signed(high)})"


def shortened(text: str, length: int) -> str:
    """Shorten a text to ``length`` letters by leaving out its middle: variants differ at their ends."""
    if len(text) <= length:
        return text
    return f"{text[: (length - 1) // 2]}…{text[len(text) - length // 2 :]}"


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each name by its position; 64 names look different."""
    shade = colours(names)
    return {
        name: {"color": shade[name], "marker": MARKERS[(i + i // len(MARKERS)) % len(MARKERS)]}
        for i, name in enumerate(names)
    }


def panels(
    width: float,
    height: float,
    number: int,
    title: str,
    label: str = "",
    *,
    columns: int = 3,
    legend: Sequence[Line2D] = (),
) -> tuple[Figure, list[Axes]]:
    """Make a figure of small panels, each ``height`` high; a narrow figure has one panel in a row.

    Below all of them stand the ``label`` of the horizontal axes and the legend.
    """
    columns = in_a_row(number, width, columns)
    rows = -(-number // columns)
    entries = [wrapped(shortened(str(line.get_label()), 90), width - 0.8, 8.0) for line in legend]
    longest = max((len(line) for entry in entries for line in entry), default=0)
    across = max(1, min(len(entries), int(width / (0.068 * longest + 0.5))))
    lines = wrapped(label, width - 0.3)
    below = -(-len(entries) // across) * (0.06 + 0.13 * max(map(len, entries), default=0)) + 0.1
    made = figure(width, height * rows + below + 0.19 * len(lines), title)
    grid = list(made.subplots(rows, columns, squeeze=False).flat)
    for spare in grid[number:]:
        spare.remove()
    if entries:
        for line, entry in zip(legend, entries, strict=True):
            line.set_label("\n".join(entry))
        made.legend(
            handles=list(legend), title="\n".join(lines), title_fontsize=TYPE, loc="outside lower center",
            ncols=across, columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
    else:
        made.supxlabel("\n".join(lines), fontsize=TYPE)
    return made, grid[:number]


def in_a_row(number: int, width: float, columns: int = 3) -> int:
    """Return how many of ``number`` panels stand beside each other."""
    return -(-number // -(-number // columns)) if width >= PHONE else 1


def head(axes: Axes, text: str, width: float, number: int, columns: int = 3) -> None:
    """Set a panel's title, in lines as long as one of ``number`` panels is wide."""
    beside = in_a_row(number, width, columns)
    room = (width - 0.9) / beside - (0.1 if beside == 1 else 0.35)
    axes.set_title("\n".join(wrapped(shortened(text, 90), room)))
