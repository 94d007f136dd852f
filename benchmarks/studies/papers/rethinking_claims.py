"""What Rethinking Weight-Averaged Model-merging claims, in its order."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from benchmarks.studies.papers import depths_claims
from benchmarks.studies.papers.claims import MARGIN, Claim, Rows, benched, framed, less, near, over, pick
from benchmarks.studies.papers.rethinking import FEW, MAIN, TABLE8
from benchmarks.studies.papers.rethinking import PAPERS as PLAIN
from benchmarks.studies.papers.theorem_claims import PEAKS, THEOREM

NAME = "rethinking"
LOGITS, FEATURES, GREEDY = "ensemble-logits", "ensemble-features", "greedy"
MOST = 10
THERE = "three data sets, one start, three seeds (docs/studies/fusion.md)"
PAPERS = f"{PLAIN}$"


def at(count: int, first: str, second: str, within: str = PAPERS) -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, "averages", "accuracy", first, second, x=count, within=within)


def gap(rows: Rows, count: int, within: str) -> pd.Series:
    """The ensemble's lead over the mean, by setting and seed."""
    frame = rows.of(NAME)
    one, other = (pick(frame, "averages", "accuracy", case, x=count) for case in (LOGITS, "mean"))
    found = one - other
    return found[found.index.get_level_values("setting").str.contains(within)]


def wider(few: int, many: int, within: str) -> Callable[[Rows], pd.DataFrame]:
    """How much more the ensemble leads with many models than with few."""
    return lambda rows: framed(gap(rows, many, within) - gap(rows, few, within))


def between(first: str, second: str, count: int, name: str) -> Callable[[Rows], pd.DataFrame]:
    """How much more the ensemble leads in one network than in another, same images and seeds."""

    def margin(rows: Rows) -> pd.DataFrame:
        one, other = (
            gap(rows, count, f"^{MAIN} {network}$").groupby("seed").mean() for network in (first, second)
        )
        found = (one - other).dropna().rename("value").reset_index()
        return found.assign(setting=name)

    return margin


def falls(few: int, many: int, within: str) -> Callable[[Rows], pd.DataFrame]:
    """How much the mean of few models is above that of many."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        one, other = (pick(frame, "averages", "accuracy", "mean", x=count) for count in (few, many))
        found = framed(one - other)
        return found[found["setting"].str.contains(within)]

    return margin


def magnified(first: str, second: str, factor: float, within: str) -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, "magnified", "accuracy", first, second, x=factor, within=within)


def scaled(case: str, factor: float, within: str) -> Callable[[Rows], pd.DataFrame]:
    """Accuracy at factor 1 less that at another factor."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        one, other = (pick(frame, "magnified", "accuracy", case, x=each) for each in (1.0, factor))
        found = framed(one - other)
        return found[found["setting"].str.contains(within)]

    return margin


def bounds(upper: str, value: str) -> Callable[[Rows], pd.DataFrame]:
    """Whether each parameter of the mean keeps a bound."""

    def margin(rows: Rows) -> pd.DataFrame:
        frame = rows.of(NAME)
        frame = frame[frame["part"] == "bounds"]
        if frame.empty:
            return pd.DataFrame(columns=MARGIN)
        wide = frame.pivot_table(index=["setting", "seed", "case"], columns="metric", values="value")
        held = (wide[value] <= wide[upper] * (1 + 1e-4)).astype(float).rename("value").reset_index()
        return held.assign(setting=held["setting"] + " " + held["case"])[["setting", "seed", "value"]]

    return margin


def template(metric: str) -> Callable[[Rows], pd.DataFrame]:
    return over(NAME, "templates", metric, "mean over classes", 0.5)


def merged(rows: Rows) -> pd.DataFrame:
    """The lesser of a merged template's correlations with its two classes, less 0.25."""
    frame = rows.of(NAME)
    one, other = (pick(frame, "merged", name, "mean over classes") for name in ("with_first", "with_second"))
    return framed(pd.concat([one, other], axis=1).min(axis=1) - 0.25)


def kernels(rows: Rows) -> pd.DataFrame:
    return over(NAME, "kernels", "correlation", "model 0 model 1", 0.9)(rows)


def hospitals(first: str, second: str) -> Callable[[Rows], pd.DataFrame]:
    """The margin of two methods in bench-fusion, models of hospitals from one start."""
    return benched(("fusion",), first, second, ("data", "split"), start="shared")


def more_hospitals(rows: Rows) -> pd.DataFrame:
    """The ensemble's lead over the mean with eight hospitals less that with two."""
    gaps = [
        benched(("fusion",), LOGITS, "mean", ("data", "split"), start="shared", parents=count)(rows)
        for count in ("8", "2")
    ]
    one, other = (found.set_index(["setting", "seed"])["value"] for found in gaps)
    return framed(one - other)


def table8(metric: str, place: int) -> Callable[[Rows], pd.DataFrame]:
    """Whether a network has the table's size, within 3 %."""

    def margin(rows: Rows) -> pd.DataFrame:
        found = framed(pick(rows.of(NAME), "sizes", metric, ""))
        wanted = found["setting"].map({name: values[place] for name, values in TABLE8.items()})
        return found.assign(value=((found["value"] / wanted - 1).abs() < 0.03).astype(float))

    return margin


def task(first: str, second: str) -> Callable[[Rows], pd.DataFrame]:
    return less(NAME, "tasks", "accuracy", first, second)


CLAIMS = [
    Claim("Fig. 1", "a linear classifier's weights look like its class's mean image",
          "correlation with the mean image, less 0.5", template("with_mean"), ("", 1.0)),
    Claim("Fig. 1", "they look like the mean image less that of all images (our reading of weight decay)",
          "correlation with the difference, less 0.5", template("with_difference"), ("", 1.0)),
    Claim("Fig. 2, 6", "averaged templates show both classes",
          "lesser correlation with the two classes' mean images (less that of all), less 0.25", merged,
          ("", 1.0)),
    Claim("supplement", "first kernels of networks from one start are alike, so their mean keeps them",
          "correlation of kernels in place, two models, less 0.9", kernels, ("", 1.0)),
    Claim("Tables 1, 4-7", "the logit ensemble is above the models' mean performance, 10 models",
          "accuracy, ensemble less models", at(MOST, LOGITS, "members")),
    Claim("Tables 1, 4-7", "it is above the uniform soup, 10 models", "accuracy, ensemble less mean of "
          "weights",
          at(MOST, LOGITS, "mean"),
          key="the logit ensemble above the uniform soup, 10 models"),
    Claim("Tables 1, 4-7", "it is above the greedy soup, 10 models", "accuracy, ensemble less greedy soup",
          at(MOST, LOGITS, GREEDY)),
    Claim("Tables 1, 4-7", "it is above the feature ensemble, 10 models (5 of 7 sets)",
          "accuracy, logits less features", at(MOST, LOGITS, FEATURES)),
    Claim("Tables 1, 4-7", "the feature ensemble is above the uniform soup, 10 models",
          "accuracy, features less mean of weights", at(MOST, FEATURES, "mean")),
    Claim("Tables 1, 4-7", "the uniform soup is below the models' own performance (5 of 7 sets), 10 models",
          "accuracy, models less mean of weights", at(MOST, "members", "mean"),
          key="the models themselves above the uniform soup, 10 models"),
    Claim("Tables 1, 4-7", "the greedy soup stays near one model: within 2 points, 10 models",
          "2 points less the distance", near(0.02, at(MOST, GREEDY, "members"))),
    Claim("Tables 1, 4-7", "the released greedy variant (v1) is near the original: within 2 points",
          "2 points less the distance", near(0.02, at(MOST, "greedy-v1", GREEDY))),
    Claim("Tables 1, 4-7", "a greedy ensemble is near the greedy soup: within 2 points",
          "2 points less the distance", near(0.02, at(MOST, "ensemble-greedy", GREEDY))),
    *(
        Claim("Tables 1, 4-7", f"of models of different hospitals: {says}", f"accuracy, {here}; {THERE}",
              margin, key=key)
        for says, here, margin, key in (
            ("the logit ensemble above the models", "ensemble less models", hospitals(LOGITS, "parents"), ""),
            ("the logit ensemble above the uniform soup", "ensemble less mean of weights",
             hospitals(LOGITS, "mean"), "hospitals' models: the logit ensemble above the uniform soup"),
            ("the logit ensemble above the greedy soup", "ensemble less greedy soup",
             hospitals(LOGITS, GREEDY), ""),
            ("the uniform soup below the models", "models less mean of weights", hospitals("parents", "mean"),
             "hospitals' models: themselves above the uniform soup"),
            ("the greedy soup above the uniform soup", "greedy soup less mean of weights",
             hospitals(GREEDY, "mean"), ""),
            ("the gap of soup and ensemble grows, 2 to 8 models", "gap of 8 less gap of 2", more_hospitals,
                ""),
        )
    ),
    Claim("Fig. 3", "the gap between uniform soup and ensemble grows with the models, 2 to 10",
          "gap with 10 models less gap with 2", wider(2, MOST, PAPERS)),
    Claim("Fig. 3", "it shrinks with depth: 4 to 17 layers, without batch norm",
          f"gap of 4 layers less gap of 17, {FEW} models", between("small-cnn-plain", "vgg19-plain", FEW,
          "tiny")),
    *depths_claims.CLAIMS,
    Claim("Table 9", f"transformers lose most: a larger gap than a CNN's, {FEW} models",
          "gap of tiny-vit less that of VGG-11 with batch norm", between("tiny-vit", "vgg11", FEW, MAIN),
          key="the transformer's gap above a CNN's"),
    Claim("Table 9", "the uniform soup of transformers falls with more models",
          f"accuracy of the mean of 2 less that of {FEW}", falls(2, FEW, "tiny-vit")),
    Claim("Fig. 4, 7", "magnified by 100, averaging features is above averaging logits, 17 layers, float32",
          "accuracy, feature ensemble less logit ensemble",
          magnified("feature ensemble float32", "ensemble float32", 100.0, "vgg19-plain")),
    Claim("Fig. 4, 7", "magnified by 100, the uniform soup is above the logit ensemble, 17 layers, float32",
          "accuracy, mean of weights less ensemble", magnified("mean float32", "ensemble float32", 100.0,
          "vgg19-plain")),
    Claim("Fig. 4, 7", "this is robustness of merging: it holds without overflow, too",
          "the same in float64, where nothing overflows",
          magnified("mean exact", "ensemble exact", 100.0, "vgg19-plain"),
          key="weights times 100: the soup above the ensemble, without overflow"),
    Claim("Table 10", "magnified by 100, the models themselves lose accuracy, 17 layers, float32",
          "accuracy at factor 1 less that at 100", scaled("members float32", 100.0, "vgg19-plain")),
    Claim("Table 10", "the loss is one of the weights: it is there without overflow, too",
          "the same in float64", scaled("members exact", 100.0, "vgg19-plain")),
    *PEAKS,
    Claim("Eq. 5-7", "the mean's largest weight is at most the models' largest",
          "each parameter of each network", bounds("largest_bound", "largest"), ("", 1.0), every=True),
    Claim("Eq. 8-9", "the mean's variance is at most the models' largest (they assume independence)",
          "each parameter of each network", bounds("variance_bound", "variance"), ("", 1.0), every=True),
    *THEOREM,
    Claim("Table 3", "averaging with a model of another task costs accuracy",
          "accuracy of model 1 less that of the mean", task("alone", "mean"),
          key="a model alone above its average with another task's"),
    Claim("Table 3", "ensembles with it cost less: logits above the uniform soup",
          "accuracy, ensemble less mean of weights", task(LOGITS, "mean")),
    Claim("Table 3", "under one head, averaging logits and averaging features are one: within 0.3 points",
          "0.3 points less the distance", near(0.003, task(LOGITS, FEATURES))),
    Claim("Table 3", "the other task's encoder alone is far below model 1",
          "accuracy of model 1 less that of encoder 2 under head 1", task("alone", "second")),
    Claim("Table 8", "parameters of 14 networks, within 3 %", "torchvision's networks",
          table8("parameters", 1),
          ("", 1.0), every=True),
    Claim("Table 8", "GFLOPs of 14 networks at 224 pixels, within 3 %", "torchvision's networks, torch's "
          "counter",
          table8("gflops", 0), ("", 1.0), every=True),
    Claim("Tables 1-10", "its numbers on CIFAR, PathMNIST, DermaMNIST, CelebA, ChestXRay14", "",
          why="ImageNet starts, 224 pixels and ten VGG-19 for each of seven sets take GPU days"),
]  # fmt: skip
