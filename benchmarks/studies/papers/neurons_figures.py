"""Figures of the page on Model Fusion via Neuron Interpolation."""

from __future__ import annotations

import numpy as np

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import dots, lines, of, share
from fedmerge.reports.figures.style import Caption


def fused(rows: Rows) -> Picture:
    """Accuracy of fused networks beside parents, retraining and ensemble."""
    frame = of(rows.of("neuron-interpolation"), "fused", "accuracy")
    names = {
        "worst parent": "worse parent", "best parent": "better parent", "mean": "mean of weights",
        "ot": "transport",
        "rebasin": "re-basin", "hf": "hf", "kf": "kf", "kf, conductance": "kf, conductance",
        "kf-gradient": "kf-gradient",
        "refit-head": "head refitted", "distill": "distilled", "ensemble": "ensemble",
        "retrained": "retrained on all images",
    }  # fmt: skip
    by = frame.groupby("case")["value"].mean()
    title = (
        f"Over all settings kf has {share(by['kf'])} accuracy, the better parent "
        f"{share(by['best parent'])}, the ensemble {share(by['ensemble'])}, the mean {share(by['mean'])}"
    )
    return dots(frame, title, "accuracy, % (diamond: mean over seeds)", cases=names), Caption(
        title, "Two parents."
    )


def errors(rows: Rows) -> Picture:
    """Grouping and approximation error by layer."""
    frame = rows.of("neuron-interpolation")
    frame = frame[(frame["part"] == "errors") & frame["setting"].str.endswith("skewed")]
    frame = frame.assign(
        setting=frame["setting"].str.removesuffix(" skewed") + ", " + frame["metric"], x=frame["x"] + 1
    )
    by = frame.groupby(["case", "metric"])["value"].mean()
    title = (
        f"kf leaves {share(by['kf']['grouping'])} of the parents' pre-activations to grouping and "
        f"{share(by['kf']['approximation'])} to the fit"
    )
    names = {"mean": "neurons in place", "ot": "transport", "rebasin": "re-basin", "hf": "hf", "kf": "kf"}
    made = lines(frame.sort_values(["setting"]), title, ("layer", "error, %"), cases=names, columns=2)
    return made, Caption(title, "Skewed halves, fusion images.")


def cost(rows: Rows) -> Picture:
    """Accuracy against seconds of fusion."""
    frame = of(rows.of("neuron-interpolation"), "fused", "accuracy")
    seconds = of(rows.of("neuron-interpolation"), "fused", "seconds")
    names = {
        name: name
        for name in (
            "mean",
            "ot",
            "rebasin",
            "hf",
            "kf",
            "kf, conductance",
            "kf-gradient",
            "refit-head",
            "distill",
        )
    }
    by = seconds.groupby(["setting", "seed", "case"])["value"].mean()
    keys = [tuple(key) for key in frame[["setting", "seed", "case"]].to_numpy()]
    timed = frame.assign(x=[by.get(key, np.nan) for key in keys]).dropna(subset=["x"])
    timed = timed.groupby(["setting", "case"], as_index=False)[["x", "value"]].mean()
    mean = by.groupby("case").mean()
    title = (
        f"CPU seconds of a fusion: kf {mean['kf']:.1f}, kf-gradient {mean['kf-gradient']:.1f}, "
        f"distillation {mean['distill']:.1f}"
    )
    made = lines(timed, title, ("CPU seconds of the fusion", "accuracy, %"), cases=names, log=True)
    return made, Caption(title, "200 fusion images; means over seeds.")
