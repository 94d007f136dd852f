"""PyTorch's optimizers without its compiler: the same bits, the same hooks, and nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fedmerge.training.optimizers import eager

OPTIONS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True}),
    (SGD, {"lr": 0.1}),
    (AdamW, {"lr": 0.01, "weight_decay": 0.1, "fused": True}),
]


def trained(kind: type[Optimizer], options: dict[str, Any]) -> tuple[list[torch.Tensor], list[Any]]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(8, 5)
    optimizer = kind([{"params": model[0].parameters()}], **options)
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.02})
    stepped: list[Any] = []
    optimizer.register_step_post_hook(lambda *what: stepped.append(what[0]))
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    state = [value for each in optimizer.state.values() for value in each.values()]
    return [*model.parameters(), *state], stepped


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_steps_state_and_hooks_are_those_of_pytorch(kind: type[Optimizer], options: dict[str, Any]) -> None:
    found, stepped = trained(eager(kind), options)
    expected, _ = trained(kind, options)
    assert len(stepped) == 4
    assert isinstance(stepped[0], kind)
    assert len(found) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_a_closure_is_called_with_gradients() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = eager(SGD)([weight], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (3 * weight).sum()
        loss.backward()
        return float(loss)

    assert optimizer.step(closure) == 3.0
    assert weight.item() == 1 - 0.5 * 3


def test_training_and_loading_import_neither_the_compiler_nor_statistics() -> None:
    """In a process of its own, because one that ran other tests has imported them."""
    code = """
import sys, torch
import fedmerge.workflows.run
from fedmerge.models.inputs import Normalisation
from fedmerge.models.loading import network_of
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit
from fedmerge.seeding import Draws
spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8, options={"width": 2})
model, images = build(spec, 0), torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
options = TrainingOptions(epochs=1, batch_size=2)
fit(model, images, torch.tensor([0, 1, 0, 1]), options, normalise=Normalisation.named("half"), draws=Draws(0))
network_of(spec, model.state_dict(), "it")
print(*(name for name in ("torch._dynamo", "sympy", "scipy.stats") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
