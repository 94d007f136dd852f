"""Average precision and F1 of findings: how rare ones are found, which AUROC flatters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fedmerge.analysis.metrics.contract import METRICS, Predictions

FINDINGS = ("multilabel", "binary")


def _macro(predictions: Predictions, values: Any, of_one: Callable[[Any, Any], float]) -> float:
    """Return the mean of a score over the findings with images of either kind; NaN for none."""
    labels = predictions.labels.reshape(len(predictions.labels), -1).numpy()
    columns = values.reshape(len(labels), -1).numpy()
    able = [f for f in range(labels.shape[1]) if 0 < labels[:, f].sum() < len(labels)]
    return float(np.mean([of_one(labels[:, f], columns[:, f]) for f in able])) if able else math.nan


@METRICS.metric(
    "average_precision",
    title="average precision",
    better="higher",
    range=(0, 1),
    needs=("labels", "probabilities"),
    short="AP",
    tasks=FINDINGS,
)
def average_precision(predictions: Predictions) -> float:
    """Macro mean of average precision, sum_n (R_n - R_{n-1}) P_n.

    Over the findings with images of either kind. scikit-learn's; a predictor that knows nothing has the share
    of images with the finding.
    """
    from sklearn.metrics import average_precision_score

    ranked = predictions.logits.nan_to_num()  # sklearn takes no infinity
    return _macro(predictions, ranked, lambda y, z: float(average_precision_score(y, z)))


@METRICS.metric("f1", title="F1", better="higher", range=(0, 1), tasks=FINDINGS)
def f1(predictions: Predictions) -> float:
    """Macro mean of F1 = 2 TP / (2 TP + FP + FN) at probability one half.

    Over the findings with images of either kind. scikit-learn's; 0 where a finding is never said.
    """
    from sklearn.metrics import f1_score

    said = predictions.task.predicted(predictions.logits)
    return _macro(predictions, said, lambda y, s: float(f1_score(y, s, zero_division=0)))
