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

NEARLY, NEAR = 0.98, 0.05
"""A classifier is constant in all but name where one class gets NEARLY all images, and its balanced accuracy
is NEAR that of one class for all."""
ERRORS = 2.0
"""Standard errors of guessing by which a balanced accuracy must be above chance."""
NUMBERS = ["constant", "balanced", "chance", "error", "accuracy", "majority"]


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


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """Look at the arg-max classes of logits (N x C, float) beside labels (N, int64). N must be at least 1."""
    labels, said = labels.cpu().long(), logits.detach().cpu().argmax(1)
    counts = torch.bincount(labels, minlength=logits.shape[1]).double()
    given = torch.bincount(said, minlength=logits.shape[1]).double()
    hits = torch.bincount(labels[said == labels], minlength=logits.shape[1]).double()
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


def uneven(table: pd.DataFrame) -> dict[str, float]:
    """The hospitals where accuracy flatters the commonest class, and that class's share of their images.

    Where the labels hold K classes, a share above min(2 / K, 1 / K + 0.1) is uneven: 60 % of two, 35 % of
    four, 20 % of ten, 2 % of a hundred. Empty for a table without these columns (``Answers``).
    """
    rows = _clean(table)
    if "largest_class" not in rows:
        return {}
    classes = rows["classes_present"].astype(float)
    over = rows[rows["largest_class"] > np.minimum(2 / classes, 1 / classes + 0.1) + 1e-9]
    shares = over.groupby("site", sort=False)["largest_class"].max()
    return {str(site): float(share) for site, share in shares.items()}


def ranking_metric(table: pd.DataFrame, chosen: str = "auto") -> str:
    """The score that levels are ranked by: the chosen one, or balanced accuracy where classes are uneven.

    ``auto`` is accuracy, unless the classes of any hospital are ``uneven``.
    """
    return chosen if chosen != "auto" else "balanced_accuracy" if uneven(table) else "accuracy"


def learning(table: pd.DataFrame, compare: str = "method", metric: str = "accuracy") -> pd.DataFrame:
    """What each level of ``compare`` is worth beside guessing, on clean images: one row a level.

    Columns: constant, the share of its measurements that are constant (``Answers``); balanced, its balanced
    accuracy, chance, 1 / K, and error, the standard error of guessing, each averaged within a hospital, then
    over hospitals (errors as those of independent hospitals, for seeds and streams share their images);
    accuracy, and majority, the share of the commonest class; then
    learned: at most half of its measurements are constant, and balanced - chance > 2 error;
    worth: learned, and where ``metric`` is accuracy, accuracy > majority: otherwise naming one class for all
    images is right as often.
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
    frame = known[[*keys, "balanced_accuracy", "chance_error", "accuracy", "largest_class"]]
    frame = frame.set_axis([*keys, "balanced", "error", "accuracy", "majority"], axis=1).assign(
        constant=known["constant"].to_numpy(dtype=float, na_value=math.nan),
        chance=1 / known["classes_present"].to_numpy(dtype=float),
    )
    shares = frame.groupby(compare)["constant"].mean()
    return frame.groupby(keys, sort=False)[NUMBERS].mean().reset_index(), shares


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
