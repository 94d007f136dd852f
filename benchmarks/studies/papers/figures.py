"""The figures of the pages on the papers, each from committed rows, with a title that its numbers decide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.drawing import dots, lines, of
from benchmarks.studies.papers.mirage_claims import ADAPTIVE, BENCHES
from benchmarks.studies.papers.rethinking import MAIN, MERGED, PAPERS
from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.diagnosis import draw
from fedmerge.reports.figures.panels import signed
from fedmerge.reports.figures.style import WIDE, Caption, figure, styled

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
        f"{_share(by['optimum'].iloc[0])} to {_share(by['optimum'].iloc[-1])}"
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
        f"On the plane through three styles' models the best point has {_share(best)} accuracy on "
        f"paintings, the mean {_share(mean)}"
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
        f"Ten {PAPERS}: logit ensemble {_share(by['ensemble-logits'])}, uniform soup "
        f"{_share(by['mean'])}, a model alone {_share(by['members'])}"
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
        f"All weights times 200, 17 layers: the soup has {_share(by['vgg19-plain, float32']['mean'])} "
        f"in float32, {_share(by['vgg19-plain, no overflow']['mean'])} without overflow"
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
        f"Over all settings kf has {_share(by['kf'])} accuracy, the better parent "
        f"{_share(by['best parent'])}, the ensemble {_share(by['ensemble'])}, the mean {_share(by['mean'])}"
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
        f"kf leaves {_share(by['kf']['grouping'])} of the parents' pre-activations to grouping and "
        f"{_share(by['kf']['approximation'])} to the fit"
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
        f"Pairs of filters above 0.3: EfficientNet-Lite0 {_share(by['efficientnet-lite0']['start'])} "
        f"with ImageNet's weights, {_share(by['efficientnet-lite0']['random weights'])} at random"
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
        f"Merged layers span {_share(last['inmerge'])} of the directions that they could, without "
        f"merging {_share(last['plain'])}, with random partners {_share(last['random'])}"
    )
    names = {"plain": "without merging", "inmerge": "alike filters merged", "random": "random partners"}
    made = lines(frame, title, ("epoch with merging", "effective rank, % of filters"), cases=names, columns=2)
    return made, Caption(title, "All sets.")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


FIGURES: dict[str, dict[str, tuple[Callable[[Rows], Picture], str]]] = {
    "mirage": {
        "drift": (drift, "drift-layers"), "paths": (paths, "barriers-optimum-path"),
        "plane": (plane, "plane"),
        "gains": (gains, ""),
    },
    "rethinking": {
        "averages": (averages, "averages"), "magnified": (magnified, "magnified"),
        "templates": (templates, "templates"),
    },
    "neuron-interpolation": {
        "fused": (fused, "fused"), "errors": (errors, "errors"), "cost": (cost, "fused"),
    },
    "in-model-merging": {"scores": (scores, "scores"), "pairs": (pairs, "pairs"), "ranks": (ranks, "rank")},
}  # fmt: skip
"""By page, the figures by name, in order, each with the part of the page's rows that it draws."""
NOTHING = "*Not drawn yet: its rows were not computed.*"


def pictures_of(name: str, rows: Rows) -> tuple[dict[str, Picture], dict[str, str]]:
    """Return the figures of a page, and the blocks of those whose rows are not there."""
    parts = {"", *rows.of(name)["part"]}
    made = {each: draw(rows) for each, (draw, part) in FIGURES[name].items() if part in parts}
    return made, {f"figure-{each}": NOTHING for each in FIGURES[name] if each not in made}
