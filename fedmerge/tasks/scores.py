"""The scores of tasks, from numbers alone: area under the ROC curve, and quadratic-weighted kappa."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def area(ranked: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: P(a positive ranks above a negative) + P(they tie) / 2.

    ranked: float, N, not NaN; positive: bool, N, at least one of each. By ranks (Mann-Whitney): with R the
    sum of the positives' ranks, ties sharing their mean rank, (R - P (P + 1) / 2) / (P (N - P)).
    """
    _, index, counts = np.unique(ranked, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    p = int(positive.sum())
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (len(positive) - p)))


def scorable(labels: Tensor) -> list[int]:
    """Return the columns of labels, N x F of 0 and 1, with at least one image of either kind."""
    present = labels.long().sum(0)
    found: list[int] = ((present > 0) & (present < len(labels))).nonzero().flatten().tolist()
    return found


def aurocs(logits: Tensor, labels: Tensor) -> list[float]:
    """Return the AUROC of each finding, NaN where it has images of one kind alone; logits, labels: N x F."""
    z, y = logits.detach().cpu().double().numpy(), labels.cpu().numpy() > 0
    able = set(scorable(labels.cpu()))
    return [
        area(z[:, f], y[:, f]) if f in able and not np.isnan(z[:, f]).any() else math.nan
        for f in range(z.shape[1])
    ]


def mean_where_defined(scores: Iterable[float]) -> float:
    """Return the mean of the scores that are not NaN; NaN where all are."""
    known = [score for score in scores if not math.isnan(score)]
    return math.fsum(known) / len(known) if known else math.nan


def macro_auroc(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of :func:`aurocs` over the findings that have one; NaN where none has."""
    known = [value for value in aurocs(logits, labels) if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def quadratic_kappa(predicted: Tensor, labels: Tensor, grades: int) -> float:
    """Return Cohen's kappa with quadratic weights: 1 - sum w O / sum w E, w_ij = (i - j)^2.

    O: how often grade i was given where j is right; E: the same if the two were independent. predicted,
    labels: N, 0 to grades - 1. NaN where all images have one grade: O is E then, whatever is predicted.
    Cohen 1968.
    """
    if not len(labels) or bool((labels == labels[0]).all()):
        return math.nan
    table = torch.zeros(grades, grades, dtype=torch.float64)
    ones = torch.ones(len(labels), dtype=torch.float64)
    table.index_put_((predicted.cpu(), labels.cpu().long()), ones, accumulate=True)
    steps = torch.arange(grades, dtype=torch.float64)
    weights = (steps[:, None] - steps).square()
    expected = table.sum(1, keepdim=True) * table.sum(0) / len(labels)
    return 1 - float((weights * table).sum()) / float((weights * expected).sum())
