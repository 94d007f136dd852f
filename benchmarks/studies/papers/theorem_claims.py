"""What Rethinking claims of a peak over the factor, and of bounds by depth and factor (its Theorem 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from benchmarks.studies.papers.claims import MARGIN, Claim, Rows, framed
from benchmarks.studies.papers.theorem import DEPTHS

NAME = "rethinking"
PEAK = (100.0, 110.0)
"""The factors at which the paper has the greatest lead."""
WHOLE = (1.0, 100.0)
"""Factors that make no weight smaller."""
LOW = 0.1
ORDERS = ("orders of magnitude", 1.0)


def leads(rows: Rows, precision: str, metric: str = "accuracy") -> pd.DataFrame:
    """Accuracy of the mean of weights less the logit ensemble's, by setting and seed; a column a factor."""
    frame = rows.of(NAME)
    frame = frame[(frame["part"] == "magnified") & (frame["metric"] == metric)]
    mean, ensemble = (
        frame[frame["case"] == f"{who} {precision}"].pivot_table(
            index=["setting", "seed"], columns="x", values="value"
        )
        for who in ("mean", "ensemble")
    )
    return ensemble if metric == "finite" else mean - ensemble


def peak(precision: str) -> Callable[[Rows], pd.DataFrame]:
    """The greatest lead at the paper's factors less the greatest at any other."""

    def margin(rows: Rows) -> pd.DataFrame:
        found = leads(rows, precision)
        inside = np.array([PEAK[0] <= factor <= PEAK[1] for factor in found.columns], dtype=bool)
        return framed(found.loc[:, inside].max(axis=1) - found.loc[:, ~inside].max(axis=1))

    return margin


def overflowing(rows: Rows) -> pd.DataFrame:
    """The greatest lead at factors where some of the ensemble's logits overflow less that at the others."""
    found, finite = leads(rows, "float32"), leads(rows, "float32", "finite")
    return framed(found.where(finite < 1).max(axis=1) - found.where(finite == 1).max(axis=1))


def values(rows: Rows, metric: str, kind: str = "perceptron") -> pd.DataFrame:
    """The rows of Theorem 1 whose setting holds ``kind``."""
    frame = rows.of(NAME)
    frame = frame[(frame["part"] == "theorem") & (frame["metric"] == metric)]
    return frame[frame["setting"].str.contains(kind)]


def grown(factors: Sequence[float], over: str) -> Callable[[Rows], pd.DataFrame]:
    """Whether both bounds of a perceptron grow with each layer (``over`` y), or with each factor (x)."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = values(rows, "value")
        frame = frame[frame["case"].isin(["theorem", "variance_theorem"]) & frame["x"].isin(factors)]
        other = "x" if over == "y" else "y"
        found = [
            {"setting": " ".join(map(str, (setting, case, place, step))), "seed": seed, "value": float(more)}
            for (setting, seed, case, place), part in frame.groupby(["setting", "seed", "case", other])
            for step, more in enumerate(np.diff(part.sort_values(over)["value"]) > 0)
        ]
        return pd.DataFrame(found, columns=MARGIN)

    return margin


def grow(rows: Rows) -> pd.DataFrame:
    """Whether the bounds grow with each layer and each factor, of factors that make no weight smaller."""
    return pd.concat([grown(WHOLE, over)(rows) for over in ("x", "y")], ignore_index=True)


def kept(*cases: str, kind: str) -> Callable[[Rows], pd.DataFrame]:
    """In which share of layers and models a bound held, by network and factor."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = values(rows, "held", kind)
        frame = frame[frame["case"].isin(cases)]
        names = [frame[each].astype(str) for each in ("setting", "case", "x", "y")]
        return frame.assign(setting=names[0].str.cat(names[1:], sep=" "))[MARGIN]

    return margin


def loose(case: str) -> Callable[[Rows], pd.DataFrame]:
    """What is left of one order of magnitude between a bound and the largest output, by network."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = values(rows, "value", "")
        frame = frame[frame["x"] == 1]
        frame = frame.assign(setting=frame["setting"] + " " + frame["y"].map("{:.0f}".format))
        found = frame.pivot_table(index=["setting", "seed"], columns="case", values="value")
        if found.empty:
            return pd.DataFrame(columns=MARGIN)
        return framed(1 - np.log10(found[case] / found["norm"]))

    return margin


def deeper(rows: Rows) -> pd.DataFrame:
    """Orders of magnitude from the outputs of the flattest perceptron to those of the deepest."""
    frame = values(rows, "value")
    frame = frame[(frame["case"] == "norm") & (frame["x"] == 1)]
    found = frame.pivot_table(index=["setting", "seed"], columns="y", values="value")
    if found.empty:
        return pd.DataFrame(columns=MARGIN)
    return framed(np.log10(found[DEPTHS[-1]] / found[DEPTHS[0]]))


PEAKS = [
    Claim("Fig. 4", "the lead of the uniform soup over the ensemble has its peak at factors of 100 to 110",
          "greatest lead at 100, 105 and 110 less the greatest at 21 other factors, 0.01 to 250, 17 layers, "
          "float32",
          peak("float32"), key="the soup's lead over the ensemble at factors 100 to 110 above any other's"),
    Claim("Fig. 4", "the peak is one of the weights: it is there without overflow, too",
          "the same in float64, where nothing overflows", peak("exact")),
    Claim("Fig. 4", "the peak is where the ensemble's logits overflow float32 (our reading)",
          "greatest lead at factors where some overflow less the greatest where none do", overflowing),
]  # fmt: skip
THEOREM = [
    Claim("Theorem 1", "bounds of output norm and output variance grow with depth and factor",
          f"(L lambda)^m and its square; perceptrons of {DEPTHS[0]} to {DEPTHS[-1]} layers, each further "
          "layer at factors 1 and 100, and 100 against 1",
          grow, ("", 1.0), every=True),
    Claim("Theorem 1", "they grow with depth at a factor below 1, too", "the same, each further layer at "
          f"factor {LOW}", grown((LOW,), "y"), ("", 1.0), every=True),
    Claim("Theorem 1", "the bounds hold, lambda the largest singular value; networks without biases",
          "each layer, network and factor", kept("theorem", "variance_theorem", kind="perceptron plain"),
          ("", 1.0), every=True),
    Claim("Theorem 1", "the norm's bound holds for networks with biases, of which it has none",
          "each layer, network and factor", kept("theorem", kind="biased|-plain"), ("", 1.0), every=True),
    Claim("Theorem 1", "with biases in it and layer by layer it holds (our correction)",
          "each layer, network and factor", kept("bound", kind=""), ("", 1.0), every=True),
    Claim("Theorem 1", "it holds with lambda the largest entry, the max norm of Eq. 5-7 (a reading)",
          "each layer, network and factor", kept("entry", kind=""), ("", 1.0), every=True),
    Claim("Theorem 1", "the bound says how large outputs are: within one order of magnitude (our measure)",
          "one order of magnitude less those between bound and largest output, factor 1; 15 networks",
          loose("theorem"), ORDERS, key="one order of magnitude, less what lies between bound and outputs"),
    Claim("Theorem 1", "outputs themselves grow with depth, as their bounds do",
          f"largest output of {DEPTHS[-1]} layers against that of {DEPTHS[0]}, factor 1", deeper, ORDERS),
]  # fmt: skip
