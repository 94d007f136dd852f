"""Figures of the page on The Mean is the Mirage."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import dots, lines, of, share
from benchmarks.studies.papers.mirage_claims import ADAPTIVE, BENCHES
from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.diagnosis import draw
from fedmerge.reports.figures.panels import signed
from fedmerge.reports.figures.style import Caption

STREAMS = ("iid", "dirichlet-0.5", "dirichlet-0.05", "temporal")


def drift(rows: Rows) -> Picture:
    """Angles between weights by depth, heads last."""
    frame = of(rows.of("mirage"), "drift-layers", "angle")
    frame = frame[frame["case"].str.endswith("weight")]
    ends = frame.groupby(["setting", "x"])["value"].mean()
    body = frame[frame["case"].str.startswith("encoder")]["value"].mean()
    heads = frame[frame["case"].str.startswith("head")]
    one, own = (
        heads[heads["setting"].str.endswith(end)]["value"].mean() for end in ("shared", "independent")
    )
    title = (
        f"Encoders of sites are {body:.0f} degrees apart, heads {one:.0f} from one initial head and "
        f"{own:.0f} drawn apart"
    )
    made = lines(
        frame, title, ("depth of the weight in the network", "degrees"), percent=False,
        cases={"encoder weight": "encoder", "head weight": "head"},
    )  # fmt: skip
    return made, Caption(title, f"{len(ends)} layers and settings.")


def paths(rows: Rows) -> Picture:
    """Accuracy on paths between sources, to their mean, and from the mean to the unseen site's optimum."""
    frame = rows.of("mirage")
    frame = frame[frame["part"].isin(["barriers-sources-path", "barriers-optimum-path"])]
    frame = frame[frame["case"].str.endswith("kept") & frame["setting"].str.contains(" shared ")]
    frame = frame.assign(
        setting=frame["setting"].str.rsplit(" ", n=2).str[0],
        case=np.where(frame["part"] == "barriers-optimum-path", "optimum", frame["case"]),
    )
    names = {
        "model kept": "source to source, at sources", "mean kept": "source to mean, at sources",
        "optimum": "mean to the unseen site's optimum, there",
    }  # fmt: skip
    by = frame.groupby(["case", "x"])["value"].mean()
    title = (
        f"From the mean to the unseen site's optimum accuracy goes from "
        f"{share(by['optimum'].iloc[0])} to {share(by['optimum'].iloc[-1])}"
    )
    made = lines(frame, title, ("position on the straight path", "accuracy, %"), cases=names)
    return made, Caption(title, "Batch norms keep blended running statistics.")


def plane(rows: Rows) -> Picture:
    """The plane through three styles' models, measured at the fourth."""
    frame = rows.of("mirage")
    frame = frame[frame["setting"] == "pacs tiny-vit shared"]
    table = frame[frame["part"] == "plane"].pivot_table(index=["x", "y"], columns="metric", values="value")
    marks = frame[frame["part"] == "plane-marks"].assign(
        kind=lambda part: part["case"].str.partition(": ")[0],
        name=lambda part: part["case"].str.partition(": ")[2].str.removeprefix("pacs_"),
    )
    best, mean = table["accuracy"].max(), marks[marks["kind"] == "mean"]["value"].iloc[0]
    title = (
        f"On the plane through three styles' models the best point has {share(best)} accuracy on "
        f"paintings, the mean {share(mean)}"
    )
    made = draw("landscape", Finding({"plane": table.reset_index(), "marks": marks}, title, 0.0))
    assert made is not None
    return made, Caption(
        title, "Small dots: models merged for single batches; diamond: the optimum, projected."
    )


def gains(rows: Rows) -> Picture:
    """Accuracy of entropy-adaptive merging less that of the mean, by stream."""
    parts = []
    for name in BENCHES:
        frame = rows.bench(name)
        by = frame.groupby(["method", "stream", "seed"])["accuracy"].mean()
        found = (by[ADAPTIVE] - by["mean"]).rename("value").reset_index()
        parts.append(found.assign(setting=name.removeprefix("testtime-"), case=found["stream"]))
    frame = pd.concat(parts)
    means = frame.groupby("case")["value"].mean()
    title = (
        f"Entropy-adaptive merging against the mean: {signed(means['iid'])} points on even streams, "
        f"{signed(means['dirichlet-0.05'])} on Dirichlet 0.05"
    )
    made = dots(
        frame, title, "points of accuracy above the mean (diamond: mean over seeds)",
        cases=dict(zip(STREAMS, ("even", "Dirichlet 0.5", "Dirichlet 0.05", "class by class"),
            strict=True)), zero=True,
    )  # fmt: skip
    return made, Caption(title, "Sites averaged; a dot is a seed.")
