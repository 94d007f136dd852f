"""Scores of a classifier from its logits: accuracy, balanced accuracy, macro AUROC, calibration error."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc, multiclass_calibration_error

ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Scores in [0, 1] over n images.

    accuracy: share of images whose arg-max class is right.
    balanced_accuracy: mean recall over the classes present among the labels.
    auroc: macro mean of one-vs-rest AUROC over the ``auroc_classes`` classes that have at least one
    positive and one negative image; classes without are left out, not counted as 0 or 0.5; NaN if none.
    ece: expected calibration error of the top class, 15 equal-width bins, L1.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    auroc: float
    auroc_classes: int
    ece: float


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """Score logits (N x C, float) against labels (N, int64). N must be at least 1."""
    logits, labels = logits.detach().float().cpu(), labels.cpu().long()
    n_classes = logits.shape[1]
    probabilities = logits.softmax(1)
    counts = torch.bincount(labels, minlength=n_classes)
    hits = logits.argmax(1) == labels
    recalls = torch.bincount(labels[hits], minlength=n_classes)[counts > 0] / counts[counts > 0]
    scorable = (counts > 0) & (counts < len(labels))
    auroc = math.nan
    if scorable.any():
        auroc = float(_one_vs_rest(probabilities, labels, scorable).mean())
    ece = multiclass_calibration_error(probabilities, labels, n_classes, n_bins=ECE_BINS, norm="l1")
    return Scores(
        n=len(labels),
        accuracy=float(hits.double().mean()),
        balanced_accuracy=float(recalls.double().mean()),
        auroc=auroc,
        auroc_classes=int(scorable.sum()),
        ece=float(ece),
    )


def _one_vs_rest(probabilities: Tensor, labels: Tensor, scorable: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torchmetrics warns about the absent classes that are left out here
        warnings.simplefilter("ignore", UserWarning)
        every = multiclass_auroc(
            probabilities.double(), labels, probabilities.shape[1], average="none", validate_args=False
        )
    return every[scorable].double()
