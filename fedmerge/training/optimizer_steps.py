"""An optimizer's steps: whether they can be followed, whether one was taken, which parameters it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError


def check_hooks(optimizer: Any) -> None:
    """Raise FedMergeError unless ``optimizer`` can call a hook after each step."""
    known = isinstance(optimizer, torch.optim.Optimizer)
    if not known or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        raise FedMergeError(
            f"InMerge cannot follow {type(optimizer).__name__}, which has no step hooks of torch.optim."
            "Optimizer: attach to the torch optimizer inside it, or call step() after each of its steps."
        )


def moved(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ``id`` of each parameter in the optimizer's groups."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def skipped(optimizer: torch.optim.Optimizer, kwargs: Mapping[str, Any]) -> bool:
    """Whether ``GradScaler`` found gradients that are not finite, so that this step changed nothing.

    For a post-step hook; kwargs: what ``step`` was called with. The steps of most optimizers are then not
    taken at all. A fused one is called with ``found_inf`` set on it, one with an argument ``grad_scaler`` is
    given the scaler, and both skip inside; to read that waits for the device.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    scaler = kwargs.get("grad_scaler")
    if found is None and scaler is not None:
        by_device = scaler._found_inf_per_device(optimizer) or scaler._check_inf_per_device(optimizer)
        return any(bool(each) for each in by_device.values())
    return found is not None and bool(found)


def first_moments(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The momentum of SGD, or Adam's first moment, of those parameters that have one."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    found = [state.get(key) for state in states for key in ("momentum_buffer", "exp_avg")]
    return [moment for moment in found if moment is not None]
