"""A model that does not adapt, in the form of a test-time method: the baseline of every comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of
from fedmerge.models.wide import wide


class Static(nn.Module):
    """Predict every batch with ``model`` as it is: one forward pass a batch, evaluation mode, no gradient.

    The model is not copied, and its own training flags are as before after each batch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_passes: float = 0
        self.backward_passes: float = 0

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        """Return the model's logits N x C for a batch as the model takes it."""
        with evaluating(self.model):
            logits = wide(logits_of(self.model(batch), self.model))
        self.forward_passes += 1
        return logits

    def observe(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits, and no trace: nothing was decided."""
        return self(batch), None

    def reset(self) -> None:
        """Set the count of forward passes to zero; there is nothing else to forget."""
        self.forward_passes = 0
