"""A module that only holds weights of an unknown network, for work that needs no forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import kinds


class Bare(nn.Module):
    """Holds the entries of a state dict under their own keys; it cannot be run.

    Real and complex entries are parameters, but for running statistics; the rest are buffers. Raises
    FedMergeError for entries that no merge knows (``entries.kinds``).
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        found = kinds(state)
        for key, value in state.items():
            *path, last = key.split(".")
            place: nn.Module = self
            for name in path:
                if name not in place._modules:
                    place.add_module(name, nn.Module())
                place = place.get_submodule(name)
            held = value.detach().clone()
            if found[key] == "mean":
                place.register_parameter(last, nn.Parameter(held, requires_grad=False))
            else:
                place.register_buffer(last, held)

    def forward(self, x: Tensor) -> Tensor:
        """Raise FedMergeError: only weights are known here."""
        raise FedMergeError("only the weights are known, not the network: name it with --model to run it.")


def bare(state: Mapping[str, Tensor]) -> nn.Module:
    """A :class:`Bare` of this state in evaluation mode."""
    with torch.no_grad():
        return Bare(state).eval()
