"""Figures of the lead over the factor, and of the bounds of Theorem 1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import lines
from benchmarks.studies.papers.networks import LAYERS
from benchmarks.studies.papers.theorem import DEPTHS
from benchmarks.studies.papers.theorem_claims import leads, values
from fedmerge.reports.figures.panels import signed
from fedmerge.reports.figures.style import Caption

SHOWN = 50.0
"""The least factor in the figure of leads: below it nothing differs."""
SAFE = 100.0
"""A factor at which no logit overflows, from which the factor that overflows is derived."""


def lead(rows: Rows) -> Picture:
    """The soup's lead over the ensemble by factor, in float32 and without overflow."""
    parts = []
    for precision, name in (("float32", "float32"), ("exact", "no overflow")):
        found = leads(rows, precision).stack().rename("value").reset_index()
        parts.append(found[found["x"] >= SHOWN].assign(setting=name, case="lead"))
    frame = pd.concat(parts)
    by = frame.groupby(["setting", "x"])["value"].mean()
    over = overflow_factors(rows)
    title = (
        f"The soup's lead over the ensemble is greatest at factor {by['float32'].idxmax():.0f} "
        f"({signed(by['float32'].max())} points); a model's largest logit overflows float32 from "
        f"{over.min():.0f} to {over.max():.0f} on; without overflow the lead is at most "
        f"{signed(by['no overflow'].max())}"
    )
    made = lines(
        frame, title, ("factor of all weights", "points of accuracy"),
        cases={"lead": "uniform soup less logit ensemble"}, columns=2,
    )  # fmt: skip
    return made, Caption(title, "Three models; 17 layers.")


def overflow_factors(rows: Rows) -> pd.Series:
    """The factor c at which a model's largest logit c^L g overflows float32, by setting and seed.

    Of a network of L layers without norms whose biases have vanished; g from the factor ``SAFE``.
    """
    frame = rows.of("rethinking")
    frame = frame[(frame["part"] == "magnified") & (frame["metric"] == "largest") & (frame["x"] == SAFE)]
    frame = frame[frame["case"] == "members float32"].set_index(["setting", "seed"])
    layers = frame.index.get_level_values("setting").str.split().str[-1].map(LAYERS).astype(float)
    return SAFE * (torch.finfo(torch.float32).max / frame["value"]) ** (1 / layers)


def bounds(rows: Rows) -> Picture:
    """The largest output and its bounds by depth, at three factors."""
    names = {
        "norm": "largest output", "bound": "bound layer by layer",
        "theorem": "(L lambda)^m, lambda a singular value",
        "entry": "(L lambda)^m, lambda the largest entry",
    }  # fmt: skip
    frame = values(rows, "value", "perceptron plain")
    frame = frame[frame["case"].isin(names) & frame["x"].isin([0.1, 1.0, 100.0])]
    wide = frame.pivot_table(index=["x", "y", "seed"], columns="case", values="value")
    above = np.log10(wide["theorem"] / wide["norm"]).loc[1.0].groupby("y").mean()
    title = (
        f"(L lambda)^m is {above[DEPTHS[0]]:.1f} orders of magnitude above the largest output with "
        f"{DEPTHS[0]} layers and {above[DEPTHS[-1]]:.1f} with {DEPTHS[-1]}, whatever the factor"
    )
    shown = frame.assign(
        setting="factor " + frame["x"].map("{:g}".format), value=np.log10(frame["value"]), x=frame["y"]
    )
    made = lines(shown, title, ("layers", "norm, power of ten"), cases=names, percent=False)
    return made, Caption(title, "Perceptrons without biases.")
