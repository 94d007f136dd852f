"""How unsure models are of a batch, and the merging coefficients that follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError


def sample_entropies(logits: Tensor) -> Tensor:
    """Return the normalised entropy of each prediction: logits (..., C) to (...), within [0, 1].

        H(x) = - sum_c p_c log p_c / log C,   p = softmax(logits)

    By log-softmax, in float32 at least, so that confident predictions give 0 and not NaN. Non-finite
    logits have no entropy and give NaN or nonsense: check them first. Raises FedMergeError for fewer than
    two classes. Dividing by log C is ours; multiply the temperature by log C to go back to nats.
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise FedMergeError(f"entropy needs logits of at least two classes, not {classes}.")
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    # the clamp keeps 0 * log 0 at 0 where a difference of logits overflows
    log_p = torch.log_softmax(logits, dim=-1).clamp(min=torch.finfo(logits.dtype).min)
    return -(log_p.exp() * log_p).sum(dim=-1) / math.log(classes)


def normalised_entropy(p: Tensor) -> Tensor:
    """Return ``- sum_c p_c log p_c / log C`` of probabilities (..., C): within [0, 1]."""
    return torch.special.entr(p).sum(dim=-1) / math.log(p.shape[-1])


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
