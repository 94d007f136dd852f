"""Calibration error and Brier score: how much probabilities can be trusted; and the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.analysis.metrics.contract import METRICS, Predictions
from fedmerge.errors import FedMergeError
from fedmerge.tasks import MULTICLASS, TASKS, Task
from fedmerge.tasks.pairs import scored_pair

if TYPE_CHECKING:
    import pandas as pd

ECE_BINS = 15


@METRICS.metric(
    "ece",
    title="calibration error (ECE)",
    heading="ECE",
    better="lower",
    range=(0, 1),
    needs=("labels", "probabilities"),
    tasks=tuple(TASKS),
)
def ece(predictions: Predictions) -> float:
    """Expected calibration error of the top class, 15 equal-width bins (see ``reliability``), L1.

    Of several findings an image, each is a prediction of presence or absence.
    """
    logits, labels = predictions.choices
    index, top, hits = _binned(logits.softmax(1), labels, ECE_BINS)
    gaps = torch.bincount(index, hits - top, minlength=ECE_BINS).abs()
    return float(gaps.sum() / len(labels))


@METRICS.metric(
    "brier",
    title="Brier score",
    heading="Brier",
    better="lower",
    range=(0, 2),
    needs=("labels", "probabilities"),
    short=None,
    tasks=tuple(TASKS),
)
def brier(predictions: Predictions) -> float:
    """Mean over images of sum_c (p_c - y_c)^2, y one-hot (Brier 1950); of findings, their mean."""
    logits, labels = predictions.choices
    probabilities = logits.softmax(1)
    wanted = functional.one_hot(labels, probabilities.shape[1])
    return float((probabilities - wanted).square().sum(1).mean())


def reliability(
    logits: Tensor, labels: Tensor, bins: int = ECE_BINS, task: Task = MULTICLASS
) -> pd.DataFrame:
    """How often the top class is right at each level of confidence: a reliability diagram's numbers.

    logits: N x C, float; labels: N, int64. One row per equal-width bin of the top class's probability p,
    low <= p < high (the last bin also holds p = 1): columns bin (from 0), low, high, n, confidence (mean p),
    accuracy; NaN where n = 0. Of several findings an image, n counts findings. The mean of abs(accuracy -
    confidence) weighted by n is ``ece``.
    """
    import pandas as pd

    if bins < 1:
        raise FedMergeError(f"a reliability diagram of {bins} bins has no row: give at least 1.")
    z, y = scored_pair(logits, labels, task)
    logits, labels = task.outcomes(z.double(), y)
    index, top, hits = _binned(logits.softmax(1), labels, bins)
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
