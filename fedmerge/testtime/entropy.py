"""How unsure models are of a batch, and the merging coefficients that follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.tasks import MULTICLASS, Task


def sample_entropies(logits: Tensor, task: Task = MULTICLASS) -> Tensor:
    """Return the normalised entropy of each prediction: logits (..., C) to (...), within [0, 1].

        H(x) = - sum_c p_c log p_c / log C,   p = softmax(logits)

    Of another task, that of its distribution over the largest there is; with F findings the sum of their
    Bernoulli entropies over F log 2. By log-softmax, in float32 at least, so that confident predictions give
    0 and not NaN. Non-finite logits have no entropy and give NaN or nonsense: check them first. Raises
    FedMergeError for fewer than two classes. Dividing by log C is ours; multiply the temperature by log C to
    go back to nats.
    """
    if task.most_nats(logits.shape[-1]) <= 0:
        raise FedMergeError(f"entropy needs logits of at least two classes, not {logits.shape[-1]}.")
    return task.entropy(logits)


def coefficients(entropies: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(-H / T)`` over M entropies: M non-negative weights that sum to one.

    T = inf gives 1/M each (mean merging); T towards 0 gives everything to the lowest entropy, shared
    equally among ties. Raises FedMergeError where T is not positive.
    """
    check_temperature(temperature)
    if math.isinf(temperature):
        return torch.full_like(entropies, 1 / len(entropies))
    gaps = entropies - entropies.min()
    return torch.softmax(torch.where(gaps > 0, -gaps / temperature, gaps), dim=0)


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """Raise FedMergeError unless ``temperature`` is above zero (infinity is allowed, NaN is not)."""
    if not temperature > 0:
        raise FedMergeError(f"{name} is {temperature}; it must be above 0 (infinity is mean merging).")
