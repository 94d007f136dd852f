"""Barriers: what is lost on the straight path between two models, and between a model and the mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from fedmerge.analysis.diagnosis.blends import Blends, has_batch_norm
from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Levels, Subject
from fedmerge.analysis.diagnosis.drift import drift
from fedmerge.analysis.diagnosis.words import chance, share
from fedmerge.analysis.diagnosis.words import points as points_of
from fedmerge.errors import FedMergeError
from fedmerge.models.state import State
from fedmerge.registry import Needs

KEPT, ANEW = "kept", "anew"
"""Batch norms with blended running statistics, and with those of the images."""
MEAN = "mean"


@ANALYSES.method(
    "barriers",
    title="Barriers between models",
    paper="The Mean is the Mirage, arXiv 2602.21372; Git Re-Basin, arXiv 2209.04836",
    needs=Needs(individual_models=True, fusion_labels=True),
    misfits={},
)
def barriers(subject: Subject, *, points: int = 21, pairs: int = 6, to_mean: bool = True) -> Finding:
    """Follow straight paths (1 - t) theta_i + t theta_j; measure loss and accuracy at ``points`` values of t.

        barrier  max_t L(t) - [(1 - t) L(0) + t L(1)],     lost  the same of accuracy, the other way round

    ``pairs``: at most so many pairs of models, those whose heads are furthest apart; ``to_mean``: and from
    each of these models to the mean of all and to each of ``subject.extra``. Networks with batch norm are
    measured twice: with the running statistics blended (``kept``), and with those of the evaluated images
    (``anew``). A path costs a pass over the images for each point; points that paths share are not measured
    again. Tables: ``barriers``, a row for each path, whose ``end`` is a model, the mean or an extra model,
    and beside it the accuracy of the ``models`` at the ends of all paths (their mean), of the ``best`` of
    them, of the ``mean`` of all models' weights, and of the ``commonest`` class; ``paths``, a row for each
    point.
    """
    if points < 3:
        raise FedMergeError(f"a path of {points} points has nothing between its ends: give at least 3.")
    subject.check_alike()
    chosen = _chosen(subject, pairs)
    ways = [*chosen, *_outward(subject, chosen)] if to_mean else chosen
    members = dict.fromkeys(name for pair in chosen for name in pair)
    ends = dict.fromkeys([*members, MEAN, *(end for way in ways for end in way)])
    used = {name: _state(subject, name) for name in ends}
    rows, reached = [], []
    for norms in (KEPT, ANEW) if has_batch_norm(subject) else (KEPT,):
        blends = Blends(subject, list(used.values()), anew=norms == ANEW)
        for first, second in ways:
            end = "mean" if second == MEAN else "extra" if second in subject.extra else "model"
            where = {"first": first, "second": second, "end": end, "norms": norms}
            rows += [where | point for point in _path(blends, list(used), first, second, points)]
        own = [each.accuracy for each in blends.scores(np.eye(len(used))[: len(members) + 1].tolist())]
        models = {"models": float(np.mean(own[:-1])), "best": max(own[:-1])}
        chance_of = {"commonest": subject.commonest, "images": len(subject.classes)}
        reached.append({"norms": norms, "mean": own[-1]} | models | chance_of)
    paths = pd.DataFrame(rows)
    frame = summary(paths).merge(pd.DataFrame(reached), on="norms")
    left = len(subject.names) * (len(subject.names) - 1) // 2 - len(chosen)
    return Finding({"barriers": frame, "paths": paths}, sentence(frame, left), worst(frame)["lost"])


def summary(paths: pd.DataFrame) -> pd.DataFrame:
    """Return barrier and lost accuracy of each path, from its points."""
    rows = []
    for (first, second, end, norms), path in paths.groupby(["first", "second", "end", "norms"], sort=False):
        t, loss, accuracy = (path[name].to_numpy(dtype=float) for name in ("t", "loss", "accuracy"))
        over, under = (values - ((1 - t) * values[0] + t * values[-1]) for values in (loss, accuracy))
        finite = bool(np.isfinite(over).all())
        at = int(np.argmin(under))
        rows.append(
            {
                "first": first, "second": second, "end": end, "norms": norms,
                "barrier": float(over.max()) if finite else float("inf"),
                "lost": float(-under.min()), "at": float(t[at]), "lowest": float(accuracy[at]),
                "ends": float((accuracy[0] + accuracy[-1]) / 2),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def worst(frame: pd.DataFrame, norms: str = KEPT) -> dict[str, Any]:
    """Return the path between two models that loses most accuracy."""
    between = frame[(frame["norms"] == norms) & (frame["end"] == "model")]
    return {str(key): value for key, value in between.iloc[int(between["lost"].argmax())].items()}


def sentence(frame: pd.DataFrame, left: int = 0) -> str:
    """Say what the worst path loses, and the mean of all models."""
    far = worst(frame)
    text = f"The worst path, {far['first']} to {far['second']}, loses {points_of(far['lost'])} of accuracy"
    if left:
        text += f" ({left} other pairs were not measured)"
    if (frame["norms"] == ANEW).any():
        text += f"; with batch norms measured anew {points_of(worst(frame, ANEW)['lost'])}"
    models, mean, _, *beside = levels(frame)
    return f"{text}; the models have {share(models)}{chance(models, *beside)}, their mean {share(mean)}."


def levels(frame: pd.DataFrame, norms: str = KEPT) -> Levels:
    """Return the levels of ``why``; the best is the best model."""
    row = frame[frame["norms"] == norms].iloc[0]
    return row["models"], row["mean"], row["best"], row["commonest"], row["images"]


def _chosen(subject: Subject, most: int) -> list[tuple[str, str]]:
    every = list(combinations(subject.names, 2))
    if len(every) <= most:
        return every
    table = drift(subject).tables["pairs"]
    heads = table[table["part"] == "head"].sort_values("angle", ascending=False, kind="stable")
    return [(row["first"], row["second"]) for row in heads.head(max(most, 1)).to_dict("records")]


def _outward(subject: Subject, chosen: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    members = dict.fromkeys(name for pair in chosen for name in pair)
    return [(name, end) for end in (MEAN, *subject.extra) for name in members]


def _state(subject: Subject, name: str) -> State:
    if name == MEAN:
        return subject.mean()
    return subject.extra[name] if name in subject.extra else subject.states[subject.names.index(name)]


def _path(
    blends: Blends, names: Sequence[str], first: str, second: str, points: int
) -> Iterator[dict[str, float]]:
    """Yield t, loss and accuracy of each point."""
    steps = [i / (points - 1) for i in range(points)]
    weights = [[(1 - t) * (name == first) + t * (name == second) for name in names] for t in steps]
    for t, score in zip(steps, blends.scores(weights), strict=True):
        yield {"t": t, "loss": score.loss, "accuracy": score.accuracy}
