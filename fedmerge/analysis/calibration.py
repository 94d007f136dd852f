"""Calibration: the temperature that a classifier's logits are divided by."""

from __future__ import annotations

from torch import Tensor

from fedmerge.tasks import MULTICLASS, Task
from fedmerge.tasks.pairs import scored_pair

LOWEST, HIGHEST = 0.05, 20.0
"""The bounds of a fitted temperature."""
_HALVINGS = 60


def fit_temperature(logits: Tensor, labels: Tensor, task: Task = MULTICLASS) -> float:
    """Fit the temperature T that makes a classifier as sure as it is right, on labelled images new to it.

    With logits z_n (N x C, float) and labels y_n (N, int64):

        T = argmin_t (1/N) sum_n [log sum_c exp(z_nc / t) - z_ny_n / t],    0.05 <= t <= 20.

    The loss is convex in s = 1/t, so its slope, mean_n (E_n[z] - z_ny_n) with E_n over softmax(s z_n), grows
    with s: its zero is found by halving, in float64. T > 1 says that the classifier is too sure, T < 1 that
    it is not sure enough; the most likely class stays the same. Where every image is right (the classes are
    separable) the loss has no minimum and T is the lower bound; where the logits say less than nothing, the
    upper. It is 1.0 where there is nothing to fit: fewer than 2 images, logits that are not finite, or the
    same logit for every class.

    Other tasks: their likelihood is a product of such choices (``Task.decisions``), of one in two each.

    Paper: On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    if len(labels) < 2:
        return 1.0
    logits, labels = scored_pair(logits, labels, task)
    z, y = task.decisions(logits.double(), labels)
    if len(y) < 2 or not z.isfinite().all():
        return 1.0
    z = z - z.gather(1, y[:, None])
    if not z.any():
        return 1.0

    def slope(t: float) -> float:
        return float(((z / t).softmax(1) * z).sum(1).mean())

    if slope(LOWEST) <= 0:
        return LOWEST
    if slope(HIGHEST) >= 0:
        return HIGHEST
    low, high = LOWEST, HIGHEST  # the slope is positive at low and negative at high
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5
