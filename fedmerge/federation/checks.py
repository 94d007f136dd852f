"""Is an update usable? Each is looked at before anything is merged; what is wrong is said in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedmerge.models.entries import kinds
from fedmerge.models.state import non_finite, running_pairs


def check_update(
    state: Mapping[str, Tensor], sent: Mapping[str, Tensor], max_norm: float | None = None
) -> str | None:
    """Why an update cannot be merged with others, or None.

    state: the weights that a hospital answered. sent: those that it was sent (or, where it began from its
    own, any of the same network): the same tensors are expected, of the same shapes and dtypes, all finite,
    tables of integers unchanged.
    max_norm: the largest ``update_norm`` allowed; None allows any.
    """
    wrong = _unlike(state, sent) or not_finite(state)
    if wrong or max_norm is None:
        return wrong
    norm = update_norm(state, sent)
    if norm > max_norm:
        return f"its update has norm {norm:.4g}, more than max_norm {max_norm:g}"
    return None


def check_images(metrics: Mapping[str, Any]) -> str | None:
    """Why the number of images that a hospital gives cannot be a weight, or None."""
    images = metrics.get("num-examples")
    if not isinstance(images, int | float) or not math.isfinite(images) or images <= 0:
        return f"it says that it trained on {images} images, which is no weight"
    return None


def update_norm(state: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of what training changed, || theta - theta_sent ||, in float64.

    Over floating-point entries other than batch-norm statistics, whose size is the images', not the
    training's.
    """
    total = 0.0
    for key in trained(sent):
        change = state[key].to(torch.float64) - sent[key].to(torch.float64)
        total += float(change.square().sum())
    return math.sqrt(total)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The sentence about the tensors that hold a NaN or an infinity, or None."""
    broken = non_finite(dict(state))
    if broken:
        return f"numbers are not finite in {len(broken)} of its tensors, first '{broken[0]}'"
    return None


def trained(state: Mapping[str, Tensor]) -> list[str]:
    """The floating-point entries other than batch-norm statistics."""
    statistics = {key for pair in running_pairs(state) for key in pair}
    return [key for key, value in state.items() if value.is_floating_point() and key not in statistics]


def _unlike(state: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> str | None:
    for key in sorted(state.keys() ^ sent.keys()):
        return f"it {'lacks the' if key in sent else 'has an unknown'} tensor '{key}'"
    for key, expected in sent.items():
        value = state[key]
        if value.shape != expected.shape or value.dtype != expected.dtype:
            return (
                f"tensor '{key}' is {_name(value)} of shape {tuple(value.shape)}, "
                f"not {_name(expected)} of shape {tuple(expected.shape)}"
            )
    for key, kind in kinds(sent, "the model").items():
        if kind == "fixed" and sent[key].ndim > 0 and not torch.equal(state[key], sent[key]):
            return f"tensor '{key}' holds other {_name(sent[key])} values than were sent, which no mean is of"
    return None


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
