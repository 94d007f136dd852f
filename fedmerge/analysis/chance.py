"""Whether anything was learned: constant classifiers, chance, the commonest class, and uneven classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedmerge.analysis.cube import finished, severities
from fedmerge.tasks import MULTICLASS, TASKS, Task
from fedmerge.tasks.pairs import scored_pair
from fedmerge.tasks.scores import macro_auroc, scorable

NEARLY, NEAR = 0.98, 0.05
"""A classifier is constant in all but name where one class gets NEARLY all images, and its balanced accuracy
is NEAR that of one class for all."""
SPREAD = 0.01
"""Probabilities of a finding that differ by less are the same for all images."""
ERRORS = 2.0
"""Standard errors of guessing by which a balanced accuracy must be above chance."""
NUMBERS = ["constant", "balanced", "chance", "error", "accuracy", "majority", "many"]


@dataclass(frozen=True)
class Answers:
    """What a classifier answered to n images, beside how often it was right.

    classes_present, largest_class: how many classes the labels hold, K, and the share of the commonest.
    classes_predicted, largest_predicted: how many classes were answered, and the share of the commonest.
    constant: the labels hold several classes and all images get one; or at least 98 % do, and the balanced
    accuracy is at most 1 / K + 0.05. A classifier that finds a rare class seldom, but rightly, is none.
    chance_error: standard error of the balanced accuracy of guesses that hit each of the n_c images of a
    class c with probability 1 / K: sqrt(sum_c (1 / K) (1 - 1 / K) / n_c) / K over the classes present.
    """

    classes_present: int
    largest_class: float
    classes_predicted: int
    largest_predicted: float
    constant: bool
    chance_error: float


def answers(logits: Tensor, labels: Tensor, task: Task = MULTICLASS) -> Answers:
    """Look at the predicted classes of logits (N x D, float) beside labels. N must be at least 1.

    Of several findings an image (labels N x F): ``findings_answers``.
    """
    logits, labels = scored_pair(logits, labels, task)
    if task.many:
        return findings_answers(logits.double(), labels, task)
    said = task.predicted(logits)
    classes = task.log_p(logits[:1]).shape[1]
    counts = torch.bincount(labels, minlength=classes).double()
    given = torch.bincount(said, minlength=classes).double()
    hits = torch.bincount(labels[said == labels], minlength=classes).double()
    there, n = counts > 0, len(labels)
    present, top = int(there.sum()), float(given.max() / n)
    balanced, chance = float((hits[there] / counts[there]).mean()), 1 / present
    return Answers(
        classes_present=present,
        largest_class=float(counts.max() / n),
        classes_predicted=int((given > 0).sum()),
        largest_predicted=top,
        constant=present > 1 and (top == 1 or (top >= NEARLY and balanced <= chance + NEAR)),
        chance_error=math.sqrt(chance * (1 - chance) * float((1 / counts[there]).sum())) / present,
    )


def findings_answers(logits: Tensor, labels: Tensor, task: Task) -> Answers:
    """Look at predicted label sets; logits N x F, labels N x F.

    A rare finding is seldom said at probability one half by a good predictor, so what counts is the ranking:
    ``learning`` compares macro AUROC with one half, and chance_error is its standard error where ranks are
    random: sqrt(sum_f (N + 1) / (12 P_f (N - P_f))) / F over the F findings with images of either kind, P_f
    with it (Mann and Whitney). constant: no finding's probability differs by ``SPREAD`` between images; or
    one label set for at least 98 % of them, and an AUROC of at most 1/2 + 0.05. classes_present: 2, presence
    and absence; 1 where no finding has both. largest_class: how often the commoner of the two is right.
    classes_predicted, largest_predicted: of label sets.
    """
    n, able = len(labels), scorable(labels)
    p = task.probabilities(logits)
    sets = torch.unique(task.predicted(logits), dim=0, return_counts=True)[1].double()
    top = float(sets.max() / n)
    present = labels[:, able].sum(0).double()
    error = float(((n + 1) / (12 * present * (n - present))).sum().sqrt()) / max(len(able), 1)
    flat = float((p.amax(0) - p.amin(0)).max()) < SPREAD
    area = macro_auroc(logits, labels)
    shares = labels.double().mean(0)
    return Answers(
        classes_present=1 + bool(able),
        largest_class=float(torch.maximum(shares, 1 - shares).mean()),
        classes_predicted=len(sets),
        largest_predicted=top,
        constant=bool(able) and (flat or (top >= NEARLY and area <= 0.5 + NEAR)),
        chance_error=error,
    )


def uneven(table: pd.DataFrame) -> dict[str, float]:
    """The hospitals where accuracy flatters the commonest class, and that class's share of their images.

    Where the labels hold K classes, a share above min(2 / K, 1 / K + 0.1) is uneven: 60 % of two, 35 % of
    four, 20 % of ten, 2 % of a hundred. Empty for a table without these columns (``Answers``).
    """
    rows = _clean(table)
    if "largest_class" not in rows or "task" in rows:
        return {}
    classes = rows["classes_present"].astype(float)
    over = rows[rows["largest_class"] > np.minimum(2 / classes, 1 / classes + 0.1) + 1e-9]
    shares = over.groupby("site", sort=False)["largest_class"].max()
    return {str(site): float(share) for site, share in shares.items()}


def ranking_metric(table: pd.DataFrame, chosen: str = "auto") -> str:
    """The score that levels are ranked by: the chosen one, or balanced accuracy where classes are uneven.

    ``auto`` is accuracy, unless the classes of any hospital are ``uneven``; with another task than
    multiclass, its own score (``Task.headline``). A score that is not defined anywhere ranks nothing:
    accuracy does.
    """
    if chosen == "auto" and "task" in table and len(told := table["task"].dropna().unique()):
        chosen = TASKS[told[0]].headline
    elif chosen == "auto":
        chosen = "balanced_accuracy" if uneven(table) else "accuracy"
    if chosen in table and "accuracy" in table and not table[chosen].count() and table["accuracy"].count():
        return "accuracy"
    return chosen


def learning(table: pd.DataFrame, compare: str = "method", metric: str = "accuracy") -> pd.DataFrame:
    """What each level of ``compare`` is worth beside guessing, on clean images: one row a level.

    Columns: constant, the share of its measurements that are constant (``Answers``); balanced, its balanced
    accuracy, chance, 1 / K, and error, the standard error of guessing, each averaged within a hospital, then
    over hospitals (errors as those of independent hospitals, for seeds and streams share their images);
    accuracy, and majority, the share of the commonest class; then
    learned: at most half of its measurements are constant, and balanced - chance > 2 error;
    worth: learned, and where ``metric`` is accuracy, accuracy > majority: otherwise naming one class for all
    images is right as often.
    Of several findings an image (many, 1), balanced is the macro AUROC, and chance one half.
    Measurements on images of one class tell nothing of this and are left out. A level of which nothing is
    known (a table of an older run) counts as learned, with NaN beside.
    """
    rows = _clean(table)
    levels = pd.Index([level for level in rows[compare].dropna().unique() if level != ""], name=compare)
    at, shares = _at_places(rows, compare, (*(["cohort"] if "cohort" in rows else []), "site"))
    by_level = at.groupby(compare)[NUMBERS].mean()
    squares = (at["error"] ** 2).groupby(at[compare])
    by_level["error"] = np.sqrt(squares.sum()) / squares.count()
    by_level["constant"] = shares
    return _judged(by_level.reindex(levels), metric)


def learning_at(table: pd.DataFrame, compare: str = "method", metric: str = "accuracy") -> pd.DataFrame:
    """Return the columns of ``learning`` for each hospital: indexed by level and site."""
    at, _ = _at_places(_clean(table), compare, ("site",))
    return _judged(at.set_index([compare, "site"])[NUMBERS], metric)


def _at_places(rows: pd.DataFrame, compare: str, place: Sequence[str]) -> tuple[pd.DataFrame, pd.Series]:
    """The numbers of each level at each place, averaged; and its share of constant measurements."""
    keys = [compare, *place]
    if "classes_present" not in rows:
        return pd.DataFrame(columns=[*keys, *NUMBERS]), pd.Series(dtype=float)
    known = rows[rows["classes_present"] > 1]
    many = of_findings(known)
    frame = known[[*keys, "balanced_accuracy", "chance_error", "accuracy", "largest_class"]]
    frame = frame.set_axis([*keys, "balanced", "error", "accuracy", "majority"], axis=1).assign(
        many=many.astype(float),
        balanced=known["balanced_accuracy"].where(~many, known.get("auroc", math.nan)),
        constant=known["constant"].to_numpy(dtype=float, na_value=math.nan),
        chance=1 / known["classes_present"].to_numpy(dtype=float),
    )
    shares = frame.groupby(compare)["constant"].mean()
    return frame.groupby(keys, sort=False)[NUMBERS].mean().reset_index(), shares


def of_findings(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of several findings an image, so that AUROC stands for balanced accuracy."""
    if "task" not in rows:
        return pd.Series(False, index=rows.index)
    return rows["task"].map(lambda name: isinstance(name, str) and TASKS[name].many).astype(bool)


def _judged(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    frame = frame.astype(float)
    above = frame["balanced"] - frame["chance"] > ERRORS * frame["error"]
    frame["learned"] = frame["balanced"].isna() | (above & (frame["constant"] <= 0.5))
    frame["worth"] = frame["learned"]
    if metric == "accuracy":
        frame["worth"] &= ~(frame["accuracy"] <= frame["majority"])
    return frame


def _clean(table: pd.DataFrame) -> pd.DataFrame:
    rows = finished(table)
    return rows[severities(rows) == 0]
