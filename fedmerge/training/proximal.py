"""FedProx: local training that is held near the weights it began from."""

from __future__ import annotations

import torch
from torch import nn


class Proximal:
    """The gradient of ``mu / 2 * |w - w_start|^2`` over a model's trainable parameters (arXiv 1812.06127).

    w_start is what the parameters hold when this is made: in a round, the global model. Buffers (batch-norm
    statistics) are not held.
    """

    def __init__(self, model: nn.Module, mu: float) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._mu = mu

    @torch.no_grad()
    def pull(self) -> None:
        """Add ``mu * (w - w_start)`` to each gradient; call it after ``backward``, before the step.

        The optimizer sees the gradient of loss and term together, whatever it does with it. A parameter
        without a gradient stays as it is.
        """
        for parameter, start in zip(self._parameters, self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu)
