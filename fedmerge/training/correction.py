"""A fixed correction of every gradient of a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Correction:
    """Fixed tensors that are added to the gradients of a model's parameters, by name."""

    def __init__(self, model: nn.Module, correction: Mapping[str, Tensor]) -> None:
        own = dict(model.named_parameters())
        self._pairs = [(own[name], value.to(own[name])) for name, value in correction.items()]

    @torch.no_grad()
    def pull(self) -> None:
        """Add the correction; call it after ``backward``, before the step.

        A parameter without a gradient stays as it is.
        """
        for parameter, value in self._pairs:
            if parameter.grad is not None:
                parameter.grad.add_(value)
