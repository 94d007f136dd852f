"""Model Stock: between the start and the mean, as far as the models agree."""

from __future__ import annotations

from typing import Any, Literal

import torch

from fedmerge.merging.checks import shared_start, summation_order
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.parents import Parents
from fedmerge.merging.task_vectors import NEEDS, from_start, task_vector
from fedmerge.models.state import State


@FUSION.method("model-stock", title="Model Stock", paper="Model Stock, arXiv 2403.19522", needs=NEEDS)
def model_stock(parents: Parents, context: Context, *, vectors: Literal["stock", "mean"] = "stock") -> Merged:
    """Per tensor, theta = t * mean + (1 - t) * theta_0 with t = M c / (1 + (M - 1) c).

    c is the mean cosine of the M (M - 1) / 2 pairs of task vectors of that tensor, and t is kept in [0, 1]:
    t = 1 where all models moved alike, 0 where they moved at right angles. ``vectors``: tensors of one
    dimension (biases, norms) by the same rule, or by their mean (t = 1). ``decisions`` has t and c of each
    tensor, a picture of drift over depth. A tensor that no model moved, and a single model, have c = t = 1.

    The pairs are not gone through: with u_m = tau_m / |tau_m|, sum_{i<j} c_ij = (|sum_m u_m|^2 - M) / 2; a
    model that did not move has u = 0. Departs from the paper in taking every tensor as a layer of its own,
    and in the bounds of t: with c < 0 the paper's formula leaves them.
    """
    start = shared_start(parents, context, "model-stock")
    total, directions, moved = _sums(parents, start)
    update: State = {}
    log: list[dict[str, Any]] = []
    for key, value in total.items():
        cosine = mean_cosine(float(directions[key].square().sum()), moved[key], len(parents))
        t = 1.0 if vectors == "mean" and value.ndim == 1 else interpolation(cosine, len(parents))
        update[key] = value.mul_(t / len(parents))
        log.append({"tensor": key, "t": t, "cosine": cosine})
    return Merged(from_start(parents, context, start, update, 1.0), uniform(parents), log)


def mean_cosine(squared: float, moved: int, models: int) -> float:
    """Mean cosine over all pairs, from |sum of unit vectors|^2 and how many of the models moved at all."""
    if moved == 0 or models == 1:
        return 1.0
    return (squared - moved) / (models * (models - 1))


def interpolation(cosine: float, models: int) -> float:
    """t = M c / (1 + (M - 1) c), in [0, 1]."""
    return 0.0 if cosine <= 0 else min(1.0, models * cosine / (1 + (models - 1) * cosine))


def _sums(parents: Parents, start: State) -> tuple[State, State, dict[str, int]]:
    """Per tensor: the sum of task vectors, the sum of their directions, and how many are not zero."""
    total: State = {}
    directions: State = {}
    moved: dict[str, int] = {}
    for index in summation_order(parents):
        for key, tau in task_vector(parents, start, index).items():
            norm = float(torch.linalg.vector_norm(tau))
            unit = tau / norm if norm > 0 else tau
            total[key] = total[key] + tau if key in total else tau
            directions[key] = directions[key] + unit if key in directions else unit
            moved[key] = moved.get(key, 0) + (norm > 0)
    return total, directions, moved
