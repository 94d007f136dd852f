"""Training curves, round by round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedmerge.experiment.formatting import count, percent
from fedmerge.reports.figures.style import (
    FAINT,
    INK,
    MARKERS,
    WIDE,
    Caption,
    colours,
    figure,
    message,
    styled,
)

MOST = 8
PANELS = (
    ("train", "loss", "Training loss", "cross-entropy (nats)"),
    ("validate", "accuracy", "Validation accuracy of the shared model", "% of the hospital's images"),
)


@styled
def rounds(history: pd.DataFrame, width: float = WIDE) -> Figure:
    """Draw each hospital's training loss and validation accuracy by round, mean over seeds and federations.

    The band is from the lowest to the highest seed or federation. Fine-tuning, where each hospital trains a
    copy of its own, comes after the last round and is a diamond. With more than eight hospitals they are
    grey and their median is black.
    """
    caption = describe_rounds(history)
    if history.empty:
        return message(width, caption.title)
    made, panels = _panels(history, width, caption.title)
    sites = list(dict.fromkeys(history["site"]))
    last = int(history.loc[history["phase"] != "fine-tune", "round"].max()) if _trained(history) else 0
    for axes, (phase, column, title, unit) in zip(panels, PANELS, strict=False):
        _lines(axes, history[history["phase"] == phase], column, sites)
        axes.set(title=title, ylabel=unit, xlabel="round" if last else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    loss = panels[0]
    _fine_tuning(loss, history[history["phase"] == "fine-tune"], last + 1, sites)
    loss.set_xticks([tick for tick in loss.get_xticks() if 1 <= tick <= last])
    loss.set_ylim(0, 1.05 * loss.get_ylim()[1])
    for axes in panels[1:]:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    handles, labels = loss.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2 if width < 5.5 else min(5, len(labels)))
    return made


def describe_rounds(history: pd.DataFrame) -> Caption:
    """Describe the curves in words."""
    if history.empty:
        return Caption("No training was recorded", "The run has no history.")
    parts = []
    for phase, column, name in (
        ("train", "loss", "training loss"),
        ("fine-tune", "loss", "loss in fine-tuning"),
    ):
        means = _means(history, phase, column)
        if len(means):
            parts.append(
                f"mean {name} {means.iloc[0]:.2f}" + (f" to {means.iloc[-1]:.2f}" if len(means) > 1 else "")
            )
    validation = _means(history, "validate", "accuracy")
    title = f"{count(history['site'].nunique(), 'hospital')} trained {'; '.join(parts)}"
    if not _trained(history):
        title = "Without federated rounds, each hospital trained its own copy of the shared start"
    elif len(validation) > 1:
        word = "rose" if validation.iloc[-1] > validation.iloc[0] else "went"
        title = (
            f"Validation accuracy {word} from {percent(validation.iloc[0])} to "
            f"{percent(validation.iloc[-1])} between round {validation.index[0]} and {validation.index[-1]}"
        )
    elif len(validation):
        title = f"Validation accuracy is {percent(validation.iloc[0])} after round {validation.index[0]}"
    final = history[history["phase"] == "validate"]
    final = final[final["round"] == final["round"].max()].groupby("site", sort=False)["accuracy"].mean()
    ends = "; ".join(f"{site} {percent(value)}" for site, value in final.items())
    detail = ", ".join(parts).capitalize() or "No loss was recorded"
    return Caption(title, f"{detail}." + (f" Validation accuracy at the end: {ends}." if ends else ""))


def _panels(history: pd.DataFrame, width: float, title: str) -> tuple[Figure, list[Axes]]:
    """Make panels for loss, and for accuracy if there was validation; below each other on a narrow figure."""
    number = 2 if (history["phase"] == "validate").any() else 1
    stacked = width < 5.5
    made = figure(width, 0.5 + 2.1 * number if stacked else 2.7, title)
    grid = made.subplots(*((number, 1) if stacked else (1, number)), squeeze=False)
    return made, list(grid.flat)


def _trained(history: pd.DataFrame) -> bool:
    return bool((history["phase"] != "fine-tune").any())


def _means(history: pd.DataFrame, phase: str, column: str) -> pd.Series:
    return history[history["phase"] == phase].groupby("round")[column].mean()


def _lines(axes: Axes, rows: pd.DataFrame, column: str, sites: list[str]) -> None:
    many, shade = len(sites) > MOST, colours(sites)
    for i, site in enumerate(sites):
        by_round = rows[rows["site"] == site].groupby("round")[column].agg(["mean", "min", "max"])
        style: dict[str, Any] = {"color": "#c3c9d0", "linewidth": 0.8}
        if not many:
            style = {"color": shade[site], "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
        axes.plot(by_round.index, by_round["mean"], label="_" if many else site, **style)
        if not many and not by_round.empty and np.any(by_round["min"] < by_round["max"]):
            axes.fill_between(
                by_round.index, by_round["min"], by_round["max"], color=shade[site], alpha=0.15, lw=0
            )
    if many and len(rows):
        median = rows.groupby(["round", "site"])[column].mean().groupby("round").median()
        axes.plot(median.index, median, color=INK, linewidth=2, label=f"median of {len(sites)} hospitals")


def _fine_tuning(axes: Axes, rows: pd.DataFrame, at: int, sites: list[str]) -> None:
    if rows.empty:
        return
    axes.axvline(at - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
    means, shade, many = rows.groupby("site")["loss"].mean(), colours(sites), len(sites) > MOST
    shown = [site for site in sites if site in means]
    for i, site in enumerate(shown):
        axes.plot(
            at + 0.5 * (i + 0.5) / len(shown) - 0.25,
            means[site],
            "d",
            markersize=6,
            color="#c3c9d0" if many else shade[site],
            markeredgecolor=INK,
            markeredgewidth=0.6,
            label="fine-tuning (own copy)" if i == 0 else "_",
        )
    axes.annotate(
        "fine-\ntuning",
        (at, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
        fontsize=7,
        color=FAINT,
    )
    axes.set_xlim(None, at + 0.5)
