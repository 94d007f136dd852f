"""Small networks whose entries all differ, copies with their neurons in another order, and images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, find_neurons, permute, random_permutations

ZOO = {
    "cnn": ("small-cnn", {"width": 4, "norm": "none"}),
    "vgg": ("vgg11", {"width": 4}),
    "resnet": ("resnet18", {"width": 8}),
}


def _network(name: str, seed: int = 0, hidden: int = 12) -> nn.Module:
    """A network for images 1 x 8 x 8 and three classes; biases and batch norms are random, too."""
    rng = torch.Generator().manual_seed(seed)
    if name == "mlp":
        net: nn.Module = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 9), nn.ReLU(), nn.Linear(9, 3)
        )
    else:
        kind, options = ZOO[name]
        net = build(ModelSpec(name=kind, in_channels=1, n_classes=3, image_size=8, options=options), seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=rng)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.2, generator=rng)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2, generator=rng)
                module.running_var.uniform_(0.5, 2, generator=rng)
                module.weight.uniform_(0.5, 2, generator=rng)
                module.bias.normal_(0, 0.2, generator=rng)
    return net.eval()


def _permuted(model: nn.Module, images: Tensor, seed: int = 5) -> nn.Module:
    """The same function with its neurons in a random order."""
    program = Program(model, images)
    neurons = find_neurons(program, program.values(model.state_dict()))
    other = copy.deepcopy(model)
    other.load_state_dict(permute(model.state_dict(), neurons, random_permutations(neurons, seed)))
    return other


@pytest.fixture(scope="session")
def network() -> Callable[..., nn.Module]:
    return _network


@pytest.fixture(scope="session")
def permuted() -> Callable[..., nn.Module]:
    return _permuted


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Fusion images, 200 x 1 x 8 x 8."""
    return torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def unseen() -> Tensor:
    return torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
