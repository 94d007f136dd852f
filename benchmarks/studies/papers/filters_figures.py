"""Figures of the page on In-Model Merging."""

from __future__ import annotations

import numpy as np

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import dots, lines, of, share
from fedmerge.reports.figures.panels import signed
from fedmerge.reports.figures.style import Caption


def scores(rows: Rows) -> Picture:
    """AUROC with merging, and with random partners, less that without."""
    frame = of(rows.of("in-model-merging"), "scores", "auroc")
    plain = frame[frame["case"] == "plain"].groupby(["setting", "seed"])["value"].mean()
    kept = frame[frame["case"].isin(["inmerge", "random"])]
    keys = [tuple(key) for key in kept[["setting", "seed"]].to_numpy()]
    found = kept.assign(value=kept["value"] - [plain.get(key, np.nan) for key in keys])
    found = found.assign(
        case=found["setting"] + found["case"].map({"inmerge": "", "random": " "}), part=found["case"]
    )
    settings = list(dict.fromkeys(found["setting"]))
    found = found.assign(
        setting=found["part"].map({"inmerge": "alike filters merged", "random": "random partners"})
    )
    found = found.assign(case=found["case"].str.strip())
    means = found.groupby("setting")["value"].mean()
    title = (
        f"Against plain fine-tuning: alike filters merged {signed(means['alike filters merged'], 2)} "
        f"points of AUROC, random partners {signed(means['random partners'], 2)}"
    )
    made = dots(
        found,
        title,
        "points of AUROC above plain (diamond: mean over seeds)",
        cases={name: name for name in settings},
        zero=True,
    )
    return made, Caption(title, "A dot is a seed.")


def pairs(rows: Rows) -> Picture:
    """Pairs of filters above the paper's threshold by layer."""
    frame = of(rows.of("in-model-merging"), "pairs", "share")
    frame = frame.assign(x=frame["x"] + 1)
    by = frame.groupby(["setting", "case"])["value"].mean()
    title = (
        f"Pairs of filters above 0.3: EfficientNet-Lite0 {share(by['efficientnet-lite0']['start'])} "
        f"with ImageNet's weights, {share(by['efficientnet-lite0']['random weights'])} at random"
    )
    made = lines(
        frame, title, ("dense convolution", "pairs above 0.3, %"),
        cases={"start": "ImageNet's weights", "random weights": "random weights, three draws"},
    )  # fmt: skip
    return made, Caption(title, "Depthwise convolutions are left out.")


def ranks(rows: Rows) -> Picture:
    """Effective rank by epoch of the merged layers."""
    frame = of(rows.of("in-model-merging"), "rank", "rank")
    frame = frame.assign(setting=frame["setting"].str.split(" ").str[1])
    last = frame[frame["x"] == frame.groupby("setting")["x"].transform("max")].groupby("case")["value"].mean()
    title = (
        f"Merged layers span {share(last['inmerge'])} of the directions that they could, without "
        f"merging {share(last['plain'])}, with random partners {share(last['random'])}"
    )
    names = {"plain": "without merging", "inmerge": "alike filters merged", "random": "random partners"}
    made = lines(frame, title, ("epoch with merging", "effective rank, % of filters"), cases=names, columns=2)
    return made, Caption(title, "All sets.")
