"""What In-Model Merging claims, in its order."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from benchmarks.studies.papers.claims import MARGIN, Claim, Rows, framed, less, over, pick
from fedmerge.training.conv_layers import PAPER_FRACTION

NAME = "in-model-merging"
SCRATCH = "networks from scratch, five seeds (docs/studies/in-model-merging.md)"
AREA = ("points of AUROC", 100.0)


def bench(
    first: str, second: str, score: str = "auroc", shift: bool = False
) -> Callable[[Rows], pd.DataFrame]:
    """The margin of two ways of training in bench-inmerge, a setting a data set and a network."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.bench("inmerge")
        frame = frame[(frame["shift"] != "none") == shift]
        keys = ["cohort", "model", "seed"]
        one, other = (
            frame[frame["training"] == name].groupby(keys)[score].mean() for name in (first, second)
        )
        found = (one - other).rename("value").reset_index()
        return found.assign(setting=found["cohort"] + " " + found["model"])[MARGIN]

    return margin


def grid(first: str, second: str) -> Callable[[Rows], pd.DataFrame]:
    """The margin of two settings in bench-inmerge-grid."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.bench("inmerge-grid").set_index("seed")
        found = frame[frame["setting"] == first]["auroc"] - frame[frame["setting"] == second]["auroc"]
        return found.rename("value").reset_index().assign(setting="breast")[MARGIN]

    return margin


def apart(first: str, second: str) -> Callable[[Rows], pd.DataFrame]:
    """By how much two settings' scores differ, less the 0.5 points that would be nothing."""

    def margin(rows: Rows) -> pd.DataFrame:
        found = grid(first, second)(rows)
        return found.assign(value=found["value"].abs() - 0.005)

    return margin


def scored(first: str, second: str, metric: str = "auroc") -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, "scores", metric, first, second)


def filters(metric: str, first: str, second: str) -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, "filters", metric, first, second)


def imagenet(rows: Rows) -> pd.DataFrame:
    """Whether each layer that would be merged has more than 1 % of its pairs above the paper's threshold."""
    frame = rows.of(NAME)
    frame = frame[(frame["part"] == "pairs") & (frame["metric"] == "share") & (frame["case"] == "start")]
    frame = frame[frame["x"] >= int(PAPER_FRACTION * (frame["x"].max() + 1))] if len(frame) else frame
    return frame.assign(
        setting=frame["x"].astype(str), value=(frame["value"].astype(float) > 0.01).astype(float)
    )[MARGIN]


def share_above(rows: Rows) -> pd.DataFrame:
    return over(NAME, "filters", "above the paper's threshold", "start", 0.01)(rows)


def grew(rows: Rows) -> pd.DataFrame:
    """The merges of the last epoch over those of the first, less one."""
    frame = rows.of(NAME)
    frame = frame[(frame["part"] == "merges") & (frame["case"] == "inmerge")]
    by = frame.sort_values("x").groupby(["setting", "seed"])["value"]
    return framed(by.last() / by.first().clip(lower=1) - 1)


def changed(rows: Rows) -> pd.DataFrame:
    found = bench("inmerge", "plain")(rows)
    return found.assign(value=found["value"].abs() - 0.001)


def same_size(rows: Rows) -> pd.DataFrame:
    """A merged filter is written into its place: the network's parameters and operations stay."""
    return framed(pick(rows.of(NAME), "size", "unchanged", "inmerge"))


SHARE = ("points of the pairs", 100.0)
CLAIMS = [
    Claim("Section 1", "deep layers of a network pretrained on ImageNet hold alike kernels, above 0.3",
          "layers of EfficientNet-Lite0 that would be merged with more than 1 % of their pairs above 0.3",
          imagenet,
          ("", 1.0), every=True, key="deep layers of a pretrained network with over 1 % of alike pairs"),
    Claim("Section 1", "deep layers of a trained CNN hold many alike kernels: more than 1 % of the pairs "
          "above 0.3",
          "share of pairs above 0.3 in the layers that are merged, less 1 %, before merging", share_above,
          SHARE,
          key="pairs of alike filters above 1 %"),
    Claim("Eq. 1-2", "merging at the paper's threshold, 0.3, changes what the network learns",
          f"how far AUROC is from plain, less 0.1 points; {SCRATCH}", changed, AREA),
    Claim("Section 3", "no cost at inference: size and operations stay the same",
          "whether they did, each run", same_size, ("", 1.0), every=True),
    Claim("main table", "better than fine-tuning without merging: a threshold at which something is merged",
          "AUROC, inmerge less plain; a start from photographs, or from ImageNet", scored("inmerge",
          "plain"), AREA,
          key="merging above plain fine-tuning, where something is merged"),
    Claim("main table", "the same, threshold 0.1", f"AUROC, inmerge-0.1 less plain; {SCRATCH}",
          bench("inmerge-0.1", "plain"), AREA),
    Claim("main table", "the same, threshold 0.05", f"AUROC, inmerge-0.05 less plain; {SCRATCH}",
          bench("inmerge-0.05", "plain"), AREA,
          key="merging at 0.05 above plain fine-tuning, from scratch"),
    Claim("main table", "it is the alike kernel that helps (our control: random partners)",
          "AUROC, inmerge less random partners", scored("inmerge", "random"), AREA,
          key="alike partners above random ones"),
    Claim("main table", "the same control, threshold 0.05", f"AUROC, inmerge-0.05 less random-0.05; "
          f"{SCRATCH}",
          bench("inmerge-0.05", "random-0.05"), AREA,
          key="alike partners above random ones, at 0.05"),
    Claim("robustness", "more robust than without merging: under noise of severity 3",
          "AUROC under noise, inmerge less plain", scored("inmerge", "plain", "auroc noise"), AREA,
          key="merging above plain, under noise"),
    Claim("robustness", "the same, noise and blur at five severities, threshold 0.1",
          f"balanced accuracy, inmerge-0.1 less plain; {SCRATCH}",
          bench("inmerge-0.1", "plain", "balanced_accuracy", True)),
    Claim("robustness", "the same, threshold 0.05", f"balanced accuracy, inmerge-0.05 less plain; {SCRATCH}",
          bench("inmerge-0.05", "plain", "balanced_accuracy", True)),
    Claim("Section 3", "merged layers become less redundant: feature maps correlate less",
          "mean correlation of maps, plain less inmerge", filters("redundancy", "plain", "inmerge")),
    Claim("Section 3", "merging makes filters span fewer directions (our reading of merging)",
          "effective rank over filters, plain less inmerge", filters("rank", "plain", "inmerge")),
    Claim("Section 3", "merging goes on as training does: more merges in the last epoch than in the first",
          "merges of the last epoch over the first, less one", grew, ("", 1.0)),
    Claim("ablation, tau", "the threshold matters: 0.05 differs from 0.3 by more than half a point",
          "difference in AUROC less 0.5; breast, small CNN, five seeds", apart("tau-0.05", "tau-0.3"), AREA),
    Claim("ablation, alpha", "alpha matters: 0.5 differs from 0.9 by more than half a point",
          "difference in AUROC less 0.5; breast, small CNN, five seeds", apart("alpha-0.5", "alpha-0.9"),
          AREA),
    Claim("ablation, p", "p matters: 1 differs from 0.1 by more than half a point",
          "difference in AUROC less 0.5; breast, small CNN, five seeds", apart("p-1", "p-0.1"), AREA),
    Claim("ablation, depth", "merging deep layers alone is better than merging all",
          "AUROC, two layers left alone less none; breast, small CNN, five seeds", grid("skip-2",
          "skip-0"), AREA),
    Claim("main table", "ChestXRay14, 112,120 images at 224 px, VGG-16/19, ResNet-18/34/50, DenseNet-121", "",
          why="the images are not here and training takes GPU days; none of its numbers could be read"),
]  # fmt: skip
