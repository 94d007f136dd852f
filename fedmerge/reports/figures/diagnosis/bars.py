"""Scores of methods: heads on encoders, weights against features, errors of matching, tasks, settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.panels import PHONE, head, line_styles, panels, shortened
from fedmerge.reports.figures.style import PALETTE, WIDE, figure, styled


@styled
def heads(finding: Finding, width: float = WIDE) -> Figure:
    """Draw the accuracy of each head (column) on each encoder (row)."""
    frame = finding.frame
    names = list(dict.fromkeys(frame["encoder"]))
    table = frame.pivot(index="encoder", columns="head", values="accuracy").loc[names, names]
    made = figure(width, 1.3 + 0.3 * len(names), finding.sentence.rstrip("."))
    axes = made.subplots()
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(names) <= 12:
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            axes.text(
                j,
                i,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                color="white" if value > 0.6 else "black",
            )
    short = [shortened(name, 18 if width >= PHONE else 9) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=0 if len(names) < 7 and width >= PHONE else 45)
    axes.set_yticks(range(len(names)), short)
    axes.set(xlabel="head", ylabel="encoder")
    axes.grid(False)
    return made


@styled
def features(finding: Finding, width: float = WIDE) -> Figure:
    """Draw accuracy by the number of models, a line for each method, and accuracy against passes' cost."""
    frame = finding.frame
    look = line_styles(list(dict.fromkeys(frame["method"])))
    legend = [Line2D([], [], label=name, **style) for name, style in look.items()]
    made, (left, right) = panels(width, 2.4, 2, finding.sentence.rstrip("."), legend=legend, columns=2)
    for method, rows in frame.groupby("method", sort=False):
        left.plot(rows["models"], rows["accuracy"], markersize=4, linewidth=1.2, **look[str(method)])
    last = frame[frame["models"] == frame["models"].max()]
    small = last["gflops"].max() < 1
    for row in last.to_dict("records"):
        right.plot(
            row["gflops"] * (1000 if small else 1),
            row["accuracy"],
            linestyle="",
            markersize=6,
            **look[row["method"]],
        )
    left.set(xlabel="models", ylabel="accuracy, %")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel=f"{'M' if small else 'G'}FLOPs of an image, {int(frame['models'].max())} models")
    for axes in (left, right):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return made


@styled
def neurons(finding: Finding, width: float = WIDE) -> Figure:
    """Draw grouping and approximation error by layer, stacked, a panel for each method."""
    frame = finding.frame
    methods = list(dict.fromkeys(frame["method"]))
    parts = {"grouping": PALETTE[0], "approximation": PALETTE[1]}
    legend = [Line2D([], [], color=c, linewidth=6, label=name) for name, c in parts.items()]
    made, grid = panels(
        width, 1.9, len(methods), finding.sentence.rstrip("."), "layer", legend=legend, columns=2
    )
    top = 1.05 * float((frame["grouping"] + frame["approximation"]).max())
    for axes, method in zip(grid, methods, strict=True):
        rows = frame[frame["method"] == method]
        below = np.zeros(len(rows))
        for name, colour in parts.items():
            axes.bar(rows["depth"], rows[name], bottom=below, color=colour, width=0.8)
            below = below + rows[name].to_numpy()
        axes.set_ylim(0, max(top, 1e-9))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        head(axes, method, width, len(methods), 2)
    made.supylabel("error, % of the parents'", fontsize=9)
    return made


@styled
def tasks(finding: Finding, width: float = WIDE) -> Figure:
    """Draw the mean accuracy over tasks of each method, with a dot for each task."""
    frame = finding.frame
    named = frame["method"].where(~frame["method"].isin(frame["task"]), "another encoder")
    return _dots(frame.assign(method=named), "method", "accuracy", "task", finding, width)


@styled
def settings(finding: Finding, width: float = WIDE) -> Figure:
    """Draw the score of each candidate beside its held-out divergence; the chosen one is filled."""
    frame = finding.frame
    score = "accuracy" if frame["accuracy"].notna().all() else "agreement"
    look = line_styles(list(frame["name"]))
    legend = [Line2D([], [], linestyle="", label=name, **style) for name, style in look.items()]
    made, (axes,) = panels(
        width, 2.5, 1, finding.sentence.rstrip("."), "held-out divergence, nats", legend=legend
    )
    for row in frame.to_dict("records"):
        style = look[row["name"]] | ({} if row["chosen"] else {"markerfacecolor": "white"})
        axes.plot(row["held_out"], row[score], linestyle="", markersize=7, **style)
    axes.set_ylabel(f"{score}, %")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return made


def _dots(frame: pd.DataFrame, by: str, value: str, of: str, finding: Finding, width: float) -> Figure:
    means = frame.groupby(by, sort=False)[value].mean()
    made = figure(width, 0.8 + 0.26 * len(means), finding.sentence.rstrip("."))
    axes: Axes = made.subplots()
    for place, name in enumerate(means.index):
        values = frame.loc[frame[by] == name, value]
        axes.plot(values, [place] * len(values), "o", color=PALETTE[5], markersize=4, alpha=0.7)
        axes.plot(means[name], place, "D", color=PALETTE[0], markersize=6)
    axes.set_yticks(range(len(means)), [shortened(str(name), 26) for name in means.index])
    axes.invert_yaxis()
    axes.set_xlabel(f"{value}, % (diamond: mean; dot: one {of})")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return made
