from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models import loading
from fedmerge.models.loading import network_of
from fedmerge.models.zoo import ModelSpec, build, names
from tests.facts import refused


def spec(name: str) -> ModelSpec:
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return ModelSpec(name=name, in_channels=3, n_classes=3, image_size=28)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)
        self.b.weight = self.a.weight


class Hidden(nn.Module):
    """A buffer that is not in the state dict, and a tensor that is not even a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.register_buffer("scale", torch.full((2,), 3.0), persistent=False)
        self.shift = torch.tensor([1.0, 2.0])


class Needy(nn.Module):
    """Cannot be built without memory: it reads a number while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, int(torch.tensor(2.0).item()))


@pytest.mark.parametrize("name", [*names(), "torchvision:mobilenet_v3_small"])
def test_it_computes_what_the_network_did_and_is_trained_alike(name: str) -> None:
    given = build(spec(name), seed=1).eval()
    network = network_of(spec(name), given.state_dict(), "north")
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), given(x))
    assert not any(module.training for module in network.modules())
    assert [(k, p.requires_grad) for k, p in network.named_parameters()] == [
        (k, p.requires_grad) for k, p in given.named_parameters()
    ]


@pytest.mark.parametrize("name", [*names(), "torchvision:resnet18"])
def test_nothing_is_initialised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = build(spec(name), seed=1).state_dict()
    devices: list[str] = []

    def watched(*given: Any, **options: Any) -> nn.Module:
        devices.append(torch.get_default_device().type)
        return build(*given, **options)

    monkeypatch.setattr(loading, "build", watched)
    network_of(spec(name), state, "north")
    assert devices == ["meta"]


def test_the_weights_are_its_own_and_random_state_stays() -> None:
    state = build(spec("small-cnn"), seed=1).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    random = torch.get_rng_state()
    network = network_of(spec("small-cnn"), state, "north")
    assert torch.get_rng_state().equal(random)
    for value in network.state_dict().values():
        value.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize("kind", [Tied, Hidden, Needy])
def test_what_the_state_does_not_fill_is_built_as_always(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "build", lambda spec, seed: kind())
    state = kind().state_dict()
    network = network_of(spec("small-cnn"), state, "north")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    if isinstance(network, Tied):
        assert network.a.weight is network.b.weight
    if isinstance(network, Hidden):
        assert isinstance(network.scale, Tensor)
        assert network.scale.tolist() == [3.0, 3.0]
        assert network.shift.tolist() == [1.0, 2.0]


def test_weights_of_another_architecture_are_named() -> None:
    state = build(spec("small-cnn"), seed=1).state_dict()
    with refused("vgg11 as its card says", "north"):
        network_of(spec("vgg11"), state, "north")
    with refused("smal-cnn", "small-cnn"):
        network_of(spec("smal-cnn"), state, "north")
