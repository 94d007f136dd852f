"""Accuracy and balanced accuracy: shares of images whose arg-max class is right."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.analysis.metrics.contract import METRICS, Predictions
from fedmerge.tasks import MULTICLASS, TASKS, Task
from fedmerge.tasks.pairs import scored_pair


@METRICS.metric(
    "accuracy", title="accuracy", better="higher", range=(0, 1), format="percent", tasks=tuple(TASKS)
)
def accuracy(predictions: Predictions) -> float:
    """Share of images whose predicted class is right; an image with a logit that is NaN is never right.

    Of several findings an image: the share of findings that are said rightly to be there or not.
    """
    return float(predictions.hits.double().mean())


@METRICS.metric(
    "balanced_accuracy",
    title="balanced accuracy",
    better="higher",
    range=(0, 1),
    format="percent",
    short="bal. acc.",
    tasks=tuple(TASKS),
)
def balanced_accuracy(predictions: Predictions) -> float:
    """Mean recall over the classes present among the labels.

    Of several findings an image: of each, over its presence and absence where there are images; their mean.
    """
    if predictions.labels.ndim == 2:
        return _by_finding(predictions.hits.double(), predictions.labels)
    labels, counts = predictions.labels, predictions.counts
    right = torch.bincount(labels[predictions.hits], minlength=len(counts))
    return float((right[counts > 0].double() / counts[counts > 0]).mean())


def _by_finding(hits: Tensor, labels: Tensor) -> float:
    """Return the mean over findings of the mean recall over absence and presence; hits, labels: N x F."""
    kinds = torch.stack([labels == 0, labels == 1]).double()
    counts = kinds.sum(1)
    recalls = torch.where(counts > 0, (kinds * hits).sum(1) / counts.clamp(min=1), torch.nan)
    return float(recalls.nanmean(0).mean())


def rates(logits: Tensor, labels: Tensor, task: Task = MULTICLASS) -> tuple[float, float]:
    """Return accuracy and balanced accuracy alone, which is quicker than all scores."""
    predictions = Predictions(*scored_pair(logits, labels, task), task=task)
    return accuracy(predictions), balanced_accuracy(predictions)
