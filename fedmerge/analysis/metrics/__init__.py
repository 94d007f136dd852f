"""Metrics: scores of a classifier from its logits. ``METRICS`` holds them; each owns its direction and
format.

To add a metric, write a function like those in ``shares`` and import its file here, or in a plug-in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from fedmerge.analysis.metrics import shares  # isort: skip  # the order of the files is that of the columns
from fedmerge.analysis.metrics import auroc  # isort: skip
from fedmerge.analysis.metrics import confidence  # isort: skip
from fedmerge.analysis.metrics import findings  # isort: skip
from fedmerge.analysis.metrics import grades  # isort: skip
from fedmerge.analysis.metrics.confidence import reliability
from fedmerge.analysis.metrics.contract import COSTS, METRICS, Metric, Predictions, Scale, scale_of
from fedmerge.analysis.metrics.shares import rates
from fedmerge.errors import FedMergeError
from fedmerge.tasks import MULTICLASS, Task

__all__ = [
    "COSTS",
    "METRICS",
    "Metric",
    "Predictions",
    "Scale",
    "auroc",
    "confidence",
    "findings",
    "grades",
    "of_task",
    "rates",
    "reliability",
    "scale_of",
    "scores",
    "shares",
]


def scores(
    logits: Tensor,
    labels: Tensor | None,
    metrics: Sequence[Metric] | None = None,
    failures: dict[str, str] | None = None,
    task: Task = MULTICLASS,
) -> dict[str, float]:
    """Score logits (N x D, float of any width) against labels (None: not known). N must be at least 1.

    labels: as the task has them, N or N x F. metrics: those to compute; None: all; those that are not for the
    task are left out. Returns ``n`` and, by name, each metric and the columns beside it.
    failures: takes the sentence of a metric that fails, by its name, and the metric is NaN; without it the
    error is raised. Raises FedMergeError.
    """
    predictions = Predictions.of(logits, labels, task)
    found: dict[str, float] = {"n": len(logits)}
    for metric in of_task(METRICS if metrics is None else metrics, task):
        try:
            found[metric.name] = metric.of(predictions)
        except FedMergeError as error:
            if failures is None:
                raise
            found[metric.name], failures[metric.name] = float("nan"), str(error)
        for column, count in metric.beside.items():
            found[column] = count(predictions) if predictions.labelled else float("nan")
    return found


def of_task(metrics: Iterable[Metric], task: Task) -> list[Metric]:
    """Return those of the metrics that are for a task."""
    return [metric for metric in metrics if task.name in metric.tasks]
