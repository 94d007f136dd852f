"""Plain loops for In-Model Merging: the same batches and the same steps, with hooks and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmerge.training.inmerge import InMerge

ALWAYS: dict[str, Any] = {"p": 1.0, "tau": -1.01, "skip": 0}
Make = Callable[[], nn.Module]


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The loss of a batch that depends on the step alone."""
    draws = torch.Generator().manual_seed(step)
    images = torch.randn(4, 1, 6, 6, generator=draws)
    return cross_entropy(model(images), torch.tensor([0, 1, 0, 1]))


def sgd(model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9} | more)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    model.eval()  # dropout draws from the global generator
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def by_hand(model: nn.Module, steps: int, **options: Any) -> tuple[nn.Module, InMerge]:
    """Plain SGD without hooks, a pass after each step."""
    inmerge, optimizer = InMerge(model, **options), sgd(model)
    for step in range(steps):
        train(model, optimizer, range(step, step + 1))
        inmerge.step()
    return model, inmerge
