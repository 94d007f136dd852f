"""The accuracy of each method, stream by stream."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.metrics import scale_of
from fedmerge.experiment.folder.results import summarise
from fedmerge.experiment.formatting import count, listing, score_text
from fedmerge.experiment.kinds import KINDS, TRIED
from fedmerge.experiment.summary.unlearned import CONSTANT, marked
from fedmerge.reports.figures.panels import metric_words, nothing_worth
from fedmerge.reports.figures.style import (
    FAINT,
    MARKERS,
    PALETTE,
    REFERENCE,
    SMALL,
    WIDE,
    Caption,
    figure,
    shortened,
    styled,
    wrapped,
)

MOST = 8
HEADINGS = {
    "reference": "one class for every image",
    "alone": "one hospital's model alone",
    "pooled": "trained on all images together",
    "oracle": "chosen by the labels of the target",
    "fusion": "fused by the server",
    "test-time": "adapting at the unseen hospital",
}


@styled
def accuracy(table: pd.DataFrame, width: float = WIDE, metric: str = "accuracy") -> Figure:
    """Draw a dot per method and stream, the mean over seeds and hospitals, and a line from lowest to highest.

    metric: the score that is drawn. References (one class for all images, hospitals alone, pooled training)
    are hollow and grey; constant classifiers have a mark at their name. Of more than eight hospitals alone
    the best, the median and the worst are shown.
    """
    summary, streams = _means(table, metric)
    rows = _rows(summary, streams)
    step = 0.075 * len(streams) + 0.16
    made = figure(
        width, 0.75 + step * len(rows) + 0.2 * rows["kind"].nunique(), describe_accuracy(table, metric).title
    )
    axes = made.subplots()
    means = rows[streams]
    positions = _positions(rows, 0.2 / step)
    spread = table.groupby(["method", "stream"])[metric].agg(["min", "max"])
    for method, at in positions.items():
        reference = rows.loc[method, "kind"] not in TRIED
        for i, stream in enumerate(streams):
            y = at + (i - (len(streams) - 1) / 2) * 0.16
            colour = REFERENCE if reference else PALETTE[i % len(PALETTE)]
            low, high = 100 * spread.reindex([(method, stream)]).iloc[0]
            axes.plot([low, high], [y, y], color=colour, linewidth=1, alpha=0.7)
            axes.plot(
                100 * means.loc[method, [stream]], [y], MARKERS[i % len(MARKERS)], color=colour, markersize=5,
                markerfacecolor="white" if reference else colour,
            )  # fmt: skip
    _labels(axes, rows, positions, width, 0.2 / step)
    _limit(axes, metric)
    _legend(made, streams, width)
    numbers = {"seed": table["seed"].nunique(), "hospital": table["site"].nunique()}
    repeats = [count(number, thing) for thing, number in numbers.items() if number > 1]
    lines = ["accuracy (% of images)" if metric == "accuracy" else f"{metric_words(metric)} (%)"]
    lines += [f"line: lowest to highest of {' x '.join(repeats)}"] if repeats else []
    lines += [CONSTANT] if (rows["constant"] > 0.5).any() else []
    axes.set_xlabel("\n".join(part for line in lines for part in wrapped(line, width - 1.6)))
    return made


def describe_accuracy(table: pd.DataFrame, metric: str = "accuracy") -> Caption:
    """Describe the dots in words."""
    summary, streams = _means(table, metric)
    mean = summary[streams].mean(axis=1)
    tried = mean[summary["kind"].isin(TRIED)]
    able = tried[summary.loc[tried.index, "worth"]]
    where = f"on average over {count(len(streams), 'stream')}"
    if tried.empty:
        title = f"References {where}: nothing was fused or adapted"
    elif able.empty:
        title = f"{nothing_worth(metric, tried)} {where}"
    elif metric != "accuracy":
        title = (
            f"{able.idxmax()} has the best {metric_words(metric)} of {len(tried)} fused and adapted models: "
        )
        title += f"{score_text(metric, able.max())} {where}"
    elif len(tried) == 1:
        title = f"{tried.index[0]} is right on {score_text(metric, tried.iloc[0])} of the images {where}"
    else:
        title = (
            f"{able.idxmax()} is the most accurate of {len(able)} fused and adapted models"
            f"{' above chance' if len(able) < len(tried) else ''}: {score_text(metric, able.max())} {where}"
        )
    each = []
    for kind in KINDS:
        group = mean[summary["kind"] == kind]
        if len(group):
            names = {name: marked(str(name), summary.loc[name, "constant"]) for name in group.index}
            listed = listing([f"{names[m]} {score_text(metric, v)}" for m, v in group.items()])
            each.append(f"{HEADINGS[kind]}: {listed}")
    return Caption(title, f"Mean {metric_words(metric)} over streams; {'; '.join(each)}.")


def _means(table: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    return summarise(table, metric), list(dict.fromkeys(table["stream"]))


def _rows(summary: pd.DataFrame, streams: list[str]) -> pd.DataFrame:
    """Return the methods to draw, in the order of the table."""
    alone = summary[summary["kind"] == "alone"]
    if len(alone) <= MOST:
        return summary
    middle = alone.index[len(alone) // 2]
    return summary[
        (summary["kind"] != "alone") | summary.index.isin([alone.index[0], middle, alone.index[-1]])
    ]


def _positions(rows: pd.DataFrame, gap: float) -> dict[str, float]:
    """Return the vertical position of each method, with room for a heading before each kind."""
    at, positions, previous = 0.0, {}, None
    for method, kind in rows["kind"].items():
        at += gap if kind != previous else 0.0
        positions[str(method)] = at
        at, previous = at + 1.0, kind
    return positions


def _labels(axes: Axes, rows: pd.DataFrame, positions: dict[str, float], width: float, gap: float) -> None:
    letters = 24 if width >= 5.5 else 17
    names = [marked(shortened(name, letters), rows["constant"][name]) for name in positions]
    axes.set_yticks(list(positions.values()), names)
    for kind in dict.fromkeys(rows["kind"]):
        first = min(positions[str(m)] for m in rows.index[rows["kind"] == kind])
        axes.axhline(first - 0.5 - gap, color="#eceff2", linewidth=0.8)
        axes.text(
            0.01, first - 0.5 - gap / 2, HEADINGS[kind], fontsize=SMALL, color=FAINT, va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_ylim(max(positions.values()) + 0.6, min(positions.values()) - 0.5 - gap)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _limit(axes: Axes, metric: str) -> None:
    """Keep the axis within the range of the score, and a little beyond."""
    low, high = axes.get_xlim()
    least = 100 * (scale_of(metric).span or (0.0, 1.0))[0]
    axes.set_xlim(max(low, least - 2), min(high, 102.0))


def _legend(made: Figure, streams: list[str], width: float) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            color=PALETTE[i % len(PALETTE)],
            label=stream,
        )
        for i, stream in enumerate(streams)
    ]
    handles.append(
        Line2D([], [], linestyle="", marker="o", color=REFERENCE, markerfacecolor="white", label="reference")
    )
    columns = 2 if width < 5.5 else min(6, len(handles))
    made.legend(handles=handles, loc="outside lower center", ncols=int(np.clip(len(handles), 1, columns)))
