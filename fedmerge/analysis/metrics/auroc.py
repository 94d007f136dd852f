"""Macro AUROC: how well each class's images are ranked above all others."""

from __future__ import annotations

import math

import numpy as np

from fedmerge.analysis.metrics.contract import METRICS, Predictions
from fedmerge.analysis.odds import log_odds
from fedmerge.tasks import TASKS
from fedmerge.tasks.scores import area, aurocs


def scorable(predictions: Predictions) -> list[int]:
    """Return the classes, or findings, that have at least one positive and one negative image."""
    counts = predictions.counts
    found: list[int] = ((counts > 0) & (counts < len(predictions.labels))).nonzero().flatten().tolist()
    return found


@METRICS.metric(
    "auroc",
    title="AUROC",
    better="higher",
    range=(0, 1),
    needs=("labels", "probabilities"),
    beside={"auroc_classes": lambda predictions: len(scorable(predictions))},
    tasks=tuple(TASKS),
)
def auroc(predictions: Predictions) -> float:
    """Macro mean of one-vs-rest AUROC over the classes with both a positive and a negative image.

    Classes without are left out (``auroc_classes`` counts those that are in), not counted as 0 or 0.5; NaN if
    there is none. A class's images are ranked by its log-odds, so that no two that a softmax rounds to 1 are
    tied. Of several findings an image: the mean over findings, each ranked by its logit.
    """
    classes = scorable(predictions)
    if not classes:
        return math.nan
    if predictions.task.many:
        return float(np.nanmean(aurocs(predictions.logits, predictions.labels)))
    odds, labels = log_odds(predictions.choices[0]).numpy(), predictions.labels.numpy()
    return float(np.mean([area(odds[:, c], labels == c) for c in classes]))
