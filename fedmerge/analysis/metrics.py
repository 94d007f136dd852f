"""Scores of a classifier from its logits: accuracy, balanced accuracy, macro AUROC, calibration, Brier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.analysis.odds import area, log_odds

if TYPE_CHECKING:
    import pandas as pd

ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Scores over n images, in [0, 1] (brier: in [0, 2]); auroc, ece and brier in float64.

    accuracy: share of images whose arg-max class is right.
    balanced_accuracy: mean recall over the classes present among the labels.
    auroc: macro mean of one-vs-rest AUROC over the ``auroc_classes`` classes that have at least one
    positive and one negative image; classes without are left out, not counted as 0 or 0.5; NaN if none.
    A class's images are ranked by its log-odds, so that no two that a softmax rounds to 1 are tied.
    ece: expected calibration error of the top class, 15 equal-width bins (see ``reliability``), L1.
    brier: mean over images of sum_c (p_c - y_c)^2, y one-hot (Brier 1950, all classes).

    An image with a logit that is NaN is never right. Where an image has no probabilities (a logit NaN or
    +inf, or all of them -inf), auroc, ece and brier are NaN.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    auroc: float
    auroc_classes: int
    ece: float
    brier: float


def rates(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy and balanced accuracy alone (see ``Scores``), which is quicker than all scores."""
    logits, labels = logits.detach().cpu(), labels.cpu().long()
    hits = (logits.argmax(1) == labels) & ~logits.isnan().any(1)
    counts = torch.bincount(labels, minlength=logits.shape[1])
    recalls = torch.bincount(labels[hits], minlength=logits.shape[1])[counts > 0] / counts[counts > 0]
    return float(hits.double().mean()), float(recalls.double().mean())


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """Score logits (N x C, float of any width) against labels (N, int64). N must be at least 1."""
    logits, labels = logits.detach().cpu().double(), labels.cpu().long()
    n_classes = logits.shape[1]
    probabilities = logits.softmax(1)
    counts = torch.bincount(labels, minlength=n_classes)
    accuracy, balanced = rates(logits, labels)
    scorable = ((counts > 0) & (counts < len(labels))).nonzero().flatten().tolist()
    auroc = math.nan
    if scorable and not probabilities.isnan().any():
        odds, classes = log_odds(logits).numpy(), labels.numpy()
        auroc = float(np.mean([area(odds[:, c], classes == c) for c in scorable]))
    index, top, hits = _binned(probabilities, labels, ECE_BINS)
    gaps = torch.bincount(index, hits - top, minlength=ECE_BINS).abs()
    return Scores(
        n=len(labels),
        accuracy=accuracy,
        balanced_accuracy=balanced,
        auroc=auroc,
        auroc_classes=len(scorable),
        ece=float(gaps.sum() / len(labels)),
        brier=float((probabilities - functional.one_hot(labels, n_classes)).square().sum(1).mean()),
    )


def reliability(logits: Tensor, labels: Tensor, bins: int = ECE_BINS) -> pd.DataFrame:
    """How often the top class is right at each level of confidence: a reliability diagram's numbers.

    logits: N x C, float; labels: N, int64. One row per equal-width bin of the top class's probability p,
    low <= p < high (the last bin also holds p = 1): columns bin (from 0), low, high, n, confidence (mean p),
    accuracy; NaN where n = 0. The mean of abs(accuracy - confidence) weighted by n is ``Scores.ece``.
    """
    import pandas as pd

    labels = labels.cpu().long()
    index, top, hits = _binned(logits.detach().cpu().double().softmax(1), labels, bins)
    edges = _edges(bins)
    n = torch.bincount(index, minlength=bins)
    return pd.DataFrame(
        {
            "bin": range(bins),
            "low": edges[:-1].numpy(),
            "high": edges[1:].numpy(),
            "n": n.numpy(),
            "confidence": (torch.bincount(index, top, minlength=bins) / n).numpy(),
            "accuracy": (torch.bincount(index, hits, minlength=bins) / n).numpy(),
        }
    )


def _edges(bins: int) -> Tensor:
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)


def _binned(probabilities: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image: the bin of its top class's probability, that probability, and 1.0 where it is right."""
    top, answer = probabilities.max(1)
    index = torch.bucketize(top, _edges(bins), right=True).sub(1).clamp(max=bins - 1)
    return index, top, ((answer == labels) & ~top.isnan()).double()
