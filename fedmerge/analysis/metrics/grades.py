"""Scores of grades in order: quadratic-weighted kappa, and how many steps predictions are off."""

from __future__ import annotations

from fedmerge.analysis.metrics.contract import METRICS, Predictions
from fedmerge.tasks import ORDINAL
from fedmerge.tasks.scores import quadratic_kappa


@METRICS.metric(
    "kappa",
    title="quadratic-weighted kappa",
    heading="kappa",
    better="higher",
    range=(-1, 1),
    needs=("labels", "probabilities"),
    tasks=(ORDINAL.name,),
)
def kappa(predictions: Predictions) -> float:
    """Cohen's kappa with weights (i - j)^2 of predicted and right grades: 0 by chance, 1 for all right.

    NaN where all images have one grade, and where an image has a logit that is NaN.
    """
    grades = predictions.probabilities.shape[1]
    return quadratic_kappa(predictions.task.predicted(predictions.logits), predictions.labels, grades)


@METRICS.metric(
    "steps_off",
    title="steps off",
    better="lower",
    range=None,
    needs=("labels", "probabilities"),
    short="steps off",
    tasks=(ORDINAL.name,),
)
def steps_off(predictions: Predictions) -> float:
    """Mean absolute error: how many grades a prediction is from the right one."""
    said = predictions.task.predicted(predictions.logits)
    return float((said - predictions.labels).abs().double().mean())
