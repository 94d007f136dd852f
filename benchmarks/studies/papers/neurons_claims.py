"""What Model Fusion via Neuron Interpolation claims, in its order."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from benchmarks.studies.papers import compression_claims
from benchmarks.studies.papers.claims import MARGIN, Claim, Rows, benched, framed, less, near, pick

NAME = "neuron-interpolation"
BENCH = ("fusion",)
BY = ("data",)
DIGITS = "digits, 2 and 4 parents, three seeds"
THERE = "three data sets, independent starts (docs/studies/fusion.md)"


def two(
    first: str, second: str, split: str = "dirichlet", parents: str = "2"
) -> Callable[[Rows], pd.DataFrame]:
    """The margin of two methods in bench-fusion, independent starts; a setting is a data set."""
    return benched(BENCH, first, second, BY, split=split, parents=parents, start="independent")


def every(first: str, second: str, split: str) -> Callable[[Rows], pd.DataFrame]:
    """The same for all numbers of parents; a setting is a data set and a number of parents."""
    return benched(BENCH, first, second, ("data", "parents"), split=split, start="independent")


def more(method: str) -> Callable[[Rows], pd.DataFrame]:
    """Accuracy with two parents less that with eight."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.bench("fusion")
        kept = (
            (frame["split"] == "dirichlet") & (frame["start"] == "independent") & (frame["method"] == method)
        )
        by = frame[kept].groupby(["parents", "data", "seed"])["accuracy"].mean()
        found = (by["2"] - by["8"]).dropna().rename("value").reset_index()
        return found.rename(columns={"data": "setting"})[MARGIN]

    return margin


def sampled(many: str, few: str) -> Callable[[Rows], pd.DataFrame]:
    """KF's accuracy with one fusion set less that with another, in bench-fusion-samples."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.bench("fusion-samples")
        frame = frame[frame["method"] == "kf"]
        by = frame.groupby(["images", "parents", "seed"])["accuracy"].mean()
        found = (by[many] - by[few]).dropna().rename("value").reset_index()
        return found.assign(setting=found["parents"] + " parents")[MARGIN]

    return margin


def enough(rows: Rows) -> pd.DataFrame:
    """A point less what 1600 images add to 400."""
    found = sampled("1600", "400")(rows)
    return found.assign(value=0.01 - found["value"])


def fused(
    first: str, second: str, within: str = "", part: str = "fused", metric: str = "accuracy"
) -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, part, metric, first, second, within=within)


def nearest(method: str, other: str, metric: str) -> Callable[[Rows], pd.DataFrame]:
    """How much less error a method leaves than another, share of the parents' pre-activations."""
    return fused(other, method, part="methods", metric=metric)


def deeper(method: str, metric: str) -> Callable[[Rows], pd.DataFrame]:
    """The error of the last hidden layer less that of the first."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        frame = frame[(frame["part"] == "errors") & (frame["case"] == method) & (frame["metric"] == metric)]
        last = frame.groupby(["setting", "seed"])["x"].transform("max") - 1
        ends = [frame[frame["x"] == x].set_index(["setting", "seed"])["value"] for x in (0, last)]
        return framed(ends[1] - ends[0])

    return margin


def concentrated(rows: Rows) -> pd.DataFrame:
    """The share of a layer's importance that a tenth of its neurons has, less 0.2: twice its part."""
    frame = rows.of(NAME)
    frame = frame[frame["part"] == "importance"]
    return framed(frame.groupby(["setting", "seed"])["value"].mean() - 0.2)


def slower(first: str, second: str, times: float) -> Callable[[Rows], pd.DataFrame]:
    """The ratio of two methods' seconds, less ``times``."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        one, other = (pick(frame, "fused", "seconds", case) for case in (first, second))
        return framed(one / other - times)

    return margin


def settings(rows: Rows) -> pd.DataFrame:
    """By how much settings of the gradient variant differ, best less worst, less 5 points."""
    frame = rows.of(NAME)
    frame = frame[(frame["part"] == "settings") & (frame["metric"] == "accuracy") & (frame["case"] != "rule")]
    by = frame.groupby(["setting", "seed"])["value"]
    return framed(by.max() - by.min() - 0.05)


def rule(rows: Rows) -> pd.DataFrame:
    """The rule's choice less the default's, plus one point."""
    found = fused("rule", "default", part="settings")(rows)
    return found.assign(value=found["value"] + 0.01)


TIMES = ("times", 1.0)
CLAIMS = [
    Claim("Section 3, C.2", "fitting is not what is left over: grouping neurons leaves more error than "
          "the fit, KF",
          "grouping less approximation error, share of the parents' pre-activations",
          lambda rows: framed(pick(rows.of(NAME), "methods", "grouping", "kf") - pick(rows.of(NAME),
              "methods", "approximation", "kf"))),
    Claim("Section 3", "KF leaves less grouping error than neurons kept in their places",
          "grouping error, mean less kf", nearest("kf", "mean", "grouping")),
    Claim("Section 3", "clusters (KF) leave less grouping error than pairs (HF)", "grouping error, hf "
          "less kf",
          nearest("kf", "hf", "grouping")),
    Claim("Section 3", "KF leaves less approximation error than re-basin, which does not fit",
          "approximation error, rebasin less kf", nearest("kf", "rebasin", "approximation")),
    Claim("Section 3", "errors grow from level to level, KF", "grouping error, last hidden layer less first",
          deeper("kf", "grouping")),
    Claim("Section 3", "importance lies with few neurons: a tenth has over twice its share",
          "share of a tenth, conductance, less 0.2", concentrated),
    Claim("Table 1", "averaging falls below the parents (11.2 against 81.5 and 75.1)",
          f"accuracy, parents less mean; {THERE}", two("parents", "mean")),
    Claim("Table 1", "transport is above averaging (43.4 against 11.2)", f"accuracy, ot less mean; {THERE}",
          two("ot", "mean")),
    Claim("Table 1", "transport stays below the parents (43.4)", f"accuracy, parents less ot; {THERE}",
          two("parents", "ot")),
    Claim("Table 1", "re-basin is above transport (71.8 against 43.4)", f"accuracy, rebasin less ot; {THERE}",
          two("rebasin", "ot")),
    Claim("Table 1", "re-basin stays below the parents (71.8)", f"accuracy, parents less rebasin; {THERE}",
          two("parents", "rebasin")),
    Claim("Table 1", "HF is above re-basin (84.6 against 71.8)", f"accuracy, hf less rebasin; {THERE}",
          two("hf", "rebasin")),
    Claim("Table 1", "KF is above re-basin (84.5 against 71.8)", f"accuracy, kf less rebasin; {THERE}",
          two("kf", "rebasin")),
    Claim("Table 1", "KF is above the better parent (84.5 against 81.5)", f"accuracy, kf less best "
          f"parent; {THERE}",
          two("kf", "best parent"),
          key="KF above the better parent, two parents"),
    Claim("Table 1", "HF and KF are near each other: within 2 points", f"2 points less the distance; {THERE}",
          near(0.02, two("hf", "kf"))),
    Claim("Table 1", "KF is above the better parent on our skewed halves, two sets and networks",
          "accuracy, kf less best parent", fused("kf", "best parent", "skewed")),
    Claim("Table 1", "KF stays near the ensemble on skewed halves: within 3 points", "3 points less the "
          "distance",
          near(0.03, fused("kf", "ensemble", "skewed")),
          key="KF near the ensemble: what is left of 3 points"),
    Claim("Table 1", "KF loses with more parents, 8 against 2 (69.6 and 84.5)", f"accuracy, 2 less 8; "
          f"{THERE}",
          more("kf")),
    Claim("Table 1", "transport loses with more parents (12.9 and 43.4)", f"accuracy, 2 less 8; {THERE}",
          more("ot")),
    Claim("Table 1", "the gradient variant is near linear KF: within 2 points (85.6 and 84.3)",
          f"2 points less the distance; {THERE}", near(0.02, two("kf", "kf-gradient"))),
    Claim("Table 2", "sharded: gradient KF is far above averaging", f"accuracy, kf-gradient less mean; "
          f"{THERE}",
          every("kf-gradient", "mean", "sharded")),
    Claim("Table 2", "attribution helps: conductance above uniform (49.3 against 46.9)",
          "accuracy, kf with conductance less without", fused("kf, conductance", "kf")),
    Claim("Table 2", "attribution helps: DeepLIFT above uniform (49.4 against 46.9)",
          "accuracy, kf with DeepLIFT less without", fused("kf, deeplift", "kf")),
    Claim("Table 3", "all data, other order: KF alone is not above the better parent before training on",
          "accuracy, best parent less kf", fused("best parent", "kf", "whole")),
    Claim("Table 3", "trained on, a fused network is above a parent trained on as long (75.3 against 73.4)",
          "accuracy, kf trained on less best parent trained on", fused("kf", "best parent", part="tuned"),
          key="trained on: a fused network above the better parent"),
    Claim("Table 3", "and above an average trained on as long", "accuracy, kf less mean, both trained on",
          fused("kf", "mean", part="tuned")),
    Claim("Table 3", "fusion replaces retraining: KF on skewed halves near one network on all images, 3 "
          "points",
          "3 points less the distance", near(0.03, fused("kf", "retrained", "skewed"))),
    Claim("Table 7", "widths may differ: KF of widths 8 and 16 into 8 is above the parent of width 8",
          "accuracy, fused less parent", fused("kf into 8", "parent of width 8", part="widths")),
    Claim("Table 7", "and into 16 above the parent of width 16", "accuracy, fused less parent",
          fused("kf into 16", "parent of width 16", part="widths")),
    Claim("Table 9", "settings of the gradient variant decide (the reviews' complaint): over 5 points",
          "accuracy, best less worst settings, less 5 points", settings),
    Claim("Table 9", "a rule that needs no labels is no worse than the default: by at most a point (our "
          "addition)",
          "accuracy, rule less default, plus a point", rule,
          key="a rule for the gradient variant's settings above the default, plus a point"),
    Claim("Table 15", "sharded, four parents: gradient KF is above distillation (43.5 against 40.3)",
          f"accuracy, kf-gradient less distill; {THERE}", two("kf-gradient", "distill", "sharded", "4"),
          key="gradient KF above distillation, sharded, four parents"),
    Claim("Table 15", "the same for linear KF, skewed halves (our addition)", "accuracy, kf less distill",
          fused("kf", "distill", "skewed")),
    Claim("Table 2", "attribution helps: conductance above uniform, 400 images",
          f"accuracy, kf-conductance less kf; {DIGITS}",
          benched(("fusion-samples",), "kf-conductance", "kf", ("parents",), images="400")),
    Claim("reviews", "400 fusion images are enough: 1600 add less than a point",
          f"a point less what they add to kf; {DIGITS}", enough),
    Claim("reviews", "a hundred images are worth more than 25", f"accuracy of kf, 100 less 25; {DIGITS}",
          sampled("100", "25")),
    Claim("reviews", "fusion images of one parent's data alone, as released, cost accuracy",
          f"accuracy of kf, 400 of all hospitals less 400 of one; {DIGITS}",
          sampled("400", "400 of one hospital")),
    Claim("Section 3", "the fit matters: KF is above matched averages without it",
          f"accuracy, kf less kf-no-refit; {THERE}", every("kf", "kf-no-refit", "dirichlet"),
          key="KF above matched averages without the fit"),
    Claim("Table 1", "KF stays near the ensemble, two parents: within 3 points",
          f"3 points less the distance; {THERE}", near(0.03, two("kf", "ensemble-logits"))),
    Claim("reviews", "re-basin with REPAIR, a baseline that is missing, is below KF",
          f"accuracy, kf less rebasin-repair; {THERE}", every("kf", "rebasin-repair", "dirichlet")),
    Claim("reviews", "KF is above the head refitted alone, all numbers of parents",
          f"accuracy, kf less refit-head; {THERE}", every("kf", "refit-head", "dirichlet"),
          key="KF above a head refitted alone"),
    Claim("reviews", "KF is above distillation, all numbers of parents",
          f"accuracy, kf less distill; {THERE}", every("kf", "distill", "dirichlet")),
    Claim("reviews", "linear KF as released is near ours: within 1 point",
          f"1 point less the distance; {THERE}", near(0.01, every("kf-paper", "kf", "dirichlet"))),
    Claim("reviews", "gains may come from a new head: KF is above the head refitted alone",
          "accuracy, kf less refit-head", fused("kf", "refit-head", "skewed")),
    Claim("cost", "the gradient variant is over 10 times slower than linear fusion", "CPU seconds, ratio "
          "less 10",
          slower("kf-gradient", "kf", 10.0), TIMES),
    Claim("cost", "linear fusion is slower than transport (14 to 83 times)", "CPU seconds, kf over ot, "
          "less 1",
          slower("kf", "ot", 1.0), TIMES),
    Claim("Tables 1-3", "ViT on CIFAR-100, VGG-11 on CIFAR-10, 300 epochs", "",
          why="CIFAR is not here, and five ViT at 350 epochs take GPU days"),
    *compression_claims.CLAIMS,
]  # fmt: skip
