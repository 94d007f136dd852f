"""Figures of the page on Rethinking Weight-Averaged Model-merging."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import lines, of, share
from benchmarks.studies.papers.rethinking import MAIN, MERGED, PAPERS
from fedmerge.reports.figures.style import WIDE, Caption, figure, styled


def averages(rows: Rows) -> Picture:
    """Accuracy by number of models, for each network on the photographs."""
    frame = of(rows.of("rethinking"), "averages", "accuracy")
    frame = frame[frame["setting"].str.startswith(f"{MAIN} ") & ~frame["setting"].str.contains("own")]
    frame = frame.assign(setting=frame["setting"].str.removeprefix(f"{MAIN} "))
    names = {
        "members": "the models, mean", "mean": "uniform soup", "greedy": "greedy soup",
        "ensemble-logits": "logit ensemble", "ensemble-features": "feature ensemble",
    }  # fmt: skip
    by = frame[(frame["setting"] == PAPERS) & (frame["x"] == 10)].groupby("case")["value"].mean()
    title = (
        f"Ten {PAPERS}: logit ensemble {share(by['ensemble-logits'])}, uniform soup "
        f"{share(by['mean'])}, a model alone {share(by['members'])}"
    )
    made = lines(frame, title, ("models", "accuracy, %"), cases=names)
    return made, Caption(title, "Handwritten digits.")


def magnified(rows: Rows) -> Picture:
    """Accuracy by factor, in float32 and without overflow."""
    frame = of(rows.of("rethinking"), "magnified", "accuracy")
    frame = frame[frame["setting"] == f"{MAIN} vgg19-plain"]
    exact = frame["case"].str.endswith("exact")
    frame = frame.assign(
        setting=frame["setting"].str.removeprefix(f"{MAIN} ") + np.where(exact, ", no overflow", ", float32"),
        case=frame["case"].str.replace(r" (float32|exact)$", "", regex=True),
    )
    names = {
        "members": "the models, mean",
        "mean": "uniform soup",
        "ensemble": "logit ensemble",
        "feature ensemble": "feature ensemble",
    }
    by = frame[frame["x"] == 200].groupby(["setting", "case"])["value"].mean()
    title = (
        f"All weights times 200, 17 layers: the soup has {share(by['vgg19-plain, float32']['mean'])} "
        f"in float32, {share(by['vgg19-plain, no overflow']['mean'])} without overflow"
    )
    made = lines(frame, title, ("factor", "accuracy, %"), cases=names, columns=2, log=True)
    return made, Caption(title, "Three models.")


def templates(rows: Rows) -> Picture:
    """Mean images, weights and merged templates of two classes."""
    frame = rows.of("rethinking")
    by = (
        of(frame, "templates", "with_mean")
        .query("case == 'mean over classes'")
        .groupby("setting")["value"]
        .mean()
    )
    title = "Weights correlate with their class's mean image: " + ", ".join(
        f"{name} {value:.2f}" for name, value in by.items()
    )
    return _pictures(frame, title), Caption(
        title, "Left to right: mean images of two classes, their weights, the average of the weights."
    )


@styled
def _pictures(frame: pd.DataFrame, title: str) -> Figure:
    made = figure(WIDE, 1.5 * len(MERGED), title)
    grid = made.subplots(len(MERGED), 5, squeeze=False)
    for line, (data, other) in zip(grid, MERGED.items(), strict=True):
        shown = [
            ("means", "0"),
            ("means", str(other)),
            ("weights", "0"),
            ("weights", str(other)),
            ("merged", "0"),
        ]
        words = ("mean image, a", "mean image, b", "weights, a", "weights, b", "weights, average")
        for axes, (name, case), word in zip(line, shown, words, strict=True):
            part = frame[
                (frame["part"] == f"pixels-{name}") & (frame["setting"] == data) & (frame["case"] == case)
            ]
            axes.imshow(part.sort_values("x")["value"].to_numpy().reshape(16, 16), cmap="gray")
            axes.set_title(f"{data}: {word}", fontsize=7)
            axes.axis("off")
    return made
