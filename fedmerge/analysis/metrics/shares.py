"""Accuracy and balanced accuracy: shares of images whose arg-max class is right."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.analysis.metrics.contract import METRICS, Predictions


@METRICS.metric("accuracy", title="accuracy", better="higher", range=(0, 1), format="percent")
def accuracy(predictions: Predictions) -> float:
    """Share of images whose arg-max class is right; an image with a logit that is NaN is never right."""
    return float(predictions.hits.double().mean())


@METRICS.metric(
    "balanced_accuracy",
    title="balanced accuracy",
    better="higher",
    range=(0, 1),
    format="percent",
    short="bal. acc.",
)
def balanced_accuracy(predictions: Predictions) -> float:
    """Mean recall over the classes present among the labels."""
    labels, counts = predictions.labels, predictions.counts
    right = torch.bincount(labels[predictions.hits], minlength=len(counts))
    return float((right[counts > 0] / counts[counts > 0]).double().mean())


def rates(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy and balanced accuracy alone, which is quicker than all scores."""
    predictions = Predictions(logits.detach().cpu(), labels.cpu().long())
    return accuracy(predictions), balanced_accuracy(predictions)
