"""Scores of a classifier from its logits: accuracy, balanced accuracy, macro AUROC, calibration, Brier."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    import pandas as pd

ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Scores over n images, in [0, 1] (brier: in [0, 2]).

    accuracy: share of images whose arg-max class is right.
    balanced_accuracy: mean recall over the classes present among the labels.
    auroc: macro mean of one-vs-rest AUROC over the ``auroc_classes`` classes that have at least one
    positive and one negative image; classes without are left out, not counted as 0 or 0.5; NaN if none.
    ece: expected calibration error of the top class, 15 equal-width bins, L1.
    brier: mean over images of sum_c (p_c - y_c)^2, y one-hot (Brier 1950, all classes).
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    auroc: float
    auroc_classes: int
    ece: float
    brier: float


def rates(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and balanced accuracy (see ``Scores``), without the second that importing the rest takes."""
    labels = labels.cpu().long()
    hits = logits.detach().cpu().argmax(1) == labels
    counts = torch.bincount(labels, minlength=logits.shape[1])
    recalls = torch.bincount(labels[hits], minlength=logits.shape[1])[counts > 0] / counts[counts > 0]
    return float(hits.double().mean()), float(recalls.double().mean())


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """Score logits (N x C, float) against labels (N, int64). N must be at least 1."""
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds to import

    logits, labels = logits.detach().float().cpu(), labels.cpu().long()
    n_classes = logits.shape[1]
    probabilities = logits.softmax(1)
    counts = torch.bincount(labels, minlength=n_classes)
    accuracy, balanced = rates(logits, labels)
    scorable = (counts > 0) & (counts < len(labels))
    auroc = math.nan
    if scorable.any():
        auroc = float(_one_vs_rest(probabilities, labels, scorable).mean())
    ece = multiclass_calibration_error(probabilities, labels, n_classes, n_bins=ECE_BINS, norm="l1")
    return Scores(
        n=len(labels),
        accuracy=accuracy,
        balanced_accuracy=balanced,
        auroc=auroc,
        auroc_classes=int(scorable.sum()),
        ece=float(ece),
        brier=float((probabilities - functional.one_hot(labels, n_classes)).double().square().sum(1).mean()),
    )


def reliability(logits: Tensor, labels: Tensor, bins: int = ECE_BINS) -> pd.DataFrame:
    """How often the top class is right at each level of confidence: a reliability diagram's numbers.

    logits: N x C, float; labels: N, int64. One row per equal-width bin of the top class's probability p,
    low <= p < high (the last bin also holds p = 1): columns bin (from 0), low, high, n, confidence (mean p),
    accuracy; NaN where n = 0. The mean of abs(accuracy - confidence) weighted by n is the expected
    calibration error; ``Scores.ece`` differs only in that torchmetrics gives p = 1 a bin of its own.
    """
    import pandas as pd

    probabilities = logits.detach().float().cpu().softmax(1)
    top, answer = probabilities.max(1)
    edges = torch.linspace(0, 1, bins + 1)
    index = torch.bucketize(top, edges, right=True).sub(1).clamp(max=bins - 1)
    n = torch.bincount(index, minlength=bins)
    hits = (answer == labels.cpu()).double()
    return pd.DataFrame(
        {
            "bin": range(bins),
            "low": edges[:-1].double().numpy(),
            "high": edges[1:].double().numpy(),
            "n": n.numpy(),
            "confidence": (torch.bincount(index, top.double(), minlength=bins) / n).numpy(),
            "accuracy": (torch.bincount(index, hits, minlength=bins) / n).numpy(),
        }
    )


def _one_vs_rest(probabilities: Tensor, labels: Tensor, scorable: Tensor) -> Tensor:
    from torchmetrics.functional.classification import multiclass_auroc

    with warnings.catch_warnings():  # torchmetrics warns about the absent classes that are left out here
        warnings.simplefilter("ignore", UserWarning)
        every = multiclass_auroc(
            probabilities.double(), labels, probabilities.shape[1], average="none", validate_args=False
        )
    return every[scorable].double()
