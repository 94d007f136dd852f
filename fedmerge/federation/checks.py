"""Check the values of an update before it is aggregated; a fault is reported as a sentence.

Names, dtypes and shapes are checked by the schema (``schema.tensors``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmerge.models.entries import kinds, running_pairs
from fedmerge.models.state import non_finite

LOSES = 2.0**24
"""A float32 has 24 binary places: added to a number 2^24 times larger, a number is lost altogether."""
MOST_BATCHES = 2**53


def check_update(
    state: Mapping[str, Tensor],
    sent: Mapping[str, Tensor],
    max_norm: float | None = None,
    limit: float | None = None,
) -> str | None:
    """Return why an update cannot be aggregated, or None.

    state: the weights in a hospital's reply. sent: the weights in its request (or, where it began from its
    own, any of the same network), of the same names, dtypes and shapes. All must be finite, none more than
    ``LOSES`` times the largest that was sent (or 1), variances and counts not below zero, tables of integers
    unchanged. limit: ``limit_of(sent)``, if known already. max_norm: the largest ``update_norm`` allowed;
    None allows any.
    """
    wrong = _absurd(state, limit_of(sent) if limit is None else limit) or _changed(state, sent)
    if wrong or max_norm is None:
        return wrong
    norm = update_norm(state, sent)
    if norm > max_norm:
        return f"its update has norm {norm:.4g}, more than max_norm {max_norm:g}"
    return None


def update_norm(state: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of an update, || theta - theta_sent ||, in float64.

    Over floating-point entries other than batch-norm statistics, whose size depends on the images, not on the
    training.
    """
    total = 0.0
    for key in trained(sent):
        change = state[key].to(torch.float64) - sent[key].to(torch.float64)
        total += float(change.square().sum())
    return math.sqrt(total)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return a sentence about the tensors that hold a NaN or an infinity, or None."""
    broken = non_finite(dict(state))
    if broken:
        return f"numbers are not finite in {len(broken)} of its tensors, first '{broken[0]}'"
    return None


def trained(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the floating-point entries other than batch-norm statistics."""
    statistics = {key for pair in running_pairs(state) for key in pair}
    return [key for key, value in state.items() if value.is_floating_point() and key not in statistics]


def limit_of(sent: Mapping[str, Tensor]) -> float:
    """Return the largest absolute value that a weight may have after training from the weights ``sent``."""
    return LOSES * max([1.0, *(_extremes(value)[1] for value in sent.values() if _has_numbers(value))])


def _absurd(state: Mapping[str, Tensor], limit: float) -> str | None:
    """Return a sentence about a tensor with a NaN, a value above ``limit`` or a variance below 0, or None."""
    variances = {var for _, var in running_pairs(state)}
    for key, value in state.items():
        if not _has_numbers(value):
            continue
        low, largest = _extremes(value)
        if not largest <= limit:  # also true of a NaN
            return not_finite(state) or (
                f"tensor '{key}' reaches {largest:.4g}, more than 2^24 times the largest weight that was "
                "sent, so that beside it those of other hospitals would count for nothing: its training "
                "diverged (lower training.lr), or it is hostile"
            )
        if key in variances and low < 0:
            return f"tensor '{key}' holds variances below zero, the least {low:.4g}"
    return None


def _changed(state: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> str | None:
    for key, kind in kinds(sent, "the model").items():
        if kind == "fixed" and sent[key].ndim > 0 and not torch.equal(state[key], sent[key]):
            return f"tensor '{key}' holds other {_name(sent[key])} values than were sent, which no mean is of"
        if kind == "counter" and not 0 <= int(state[key].min()) <= int(state[key].max()) <= MOST_BATCHES:
            return f"tensor '{key}' counts {state[key].tolist()} batches, which cannot be"
    return None


def _extremes(value: Tensor) -> tuple[float, float]:
    """Return the least number and the largest absolute value."""
    value = value.detach()
    low, high = torch.aminmax(torch.view_as_real(value) if value.is_complex() else value)
    return float(low), max(-float(low), float(high))


def _has_numbers(value: Tensor) -> bool:
    return (value.is_floating_point() or value.is_complex()) and value.numel() > 0


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
