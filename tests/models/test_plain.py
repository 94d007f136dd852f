"""Derived weights by hand: what a network computes with is merged, and put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from fedmerge.models.copies import check_copy
from fedmerge.models.entries import entries
from fedmerge.models.plain import dressed, plain, reparametrised
from tests.facts import refused

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.log()


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def custom(kind: nn.Module):  # type: ignore[no-untyped-def]
    def wrap(layer: nn.Linear) -> None:
        with torch.no_grad():
            layer.weight.abs_()
        parametrize.register_parametrization(layer, "weight", kind)

    return wrap


EXACT = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "old weight norm": nn.utils.weight_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.random_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "symmetric": custom(Symmetric()),
    "positive": custom(Positive()),
}
NORMED = {"spectral norm": parametrizations.spectral_norm, "old spectral norm": nn.utils.spectral_norm}
ORTHOGONAL = {
    "orthogonal": parametrizations.orthogonal,
    "householder": lambda layer: parametrizations.orthogonal(
        layer, orthogonal_map="householder", use_trivialization=False
    ),
}


def trained(wrap, seed: int) -> nn.Module:  # type: ignore[no-untyped-def]
    """A layer, reparametrised, after 30 forward passes in training mode (power iterations)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(4, 4)
        wrap(layer)
        net = nn.Sequential(layer, nn.Linear(4, 3))
        for _ in range(30):
            net(torch.rand(2, 4))
    return net


@pytest.mark.parametrize("name", [*EXACT, *NORMED, *ORTHOGONAL])
def test_plain_networks_compute_the_same_and_the_original_stays(name: str) -> None:
    net, x = trained((EXACT | NORMED | ORTHOGONAL)[name], 0), torch.rand(5, 4)
    made = plain(net)
    check_copy(net, made, x)
    assert len(reparametrised(net)) >= 1
    assert not reparametrised(made)
    assert set(entries(made)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    back = dressed(net, entries(made))
    torch.testing.assert_close(back(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    assert back.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_of_effective_weights_is_held_exactly(name: str) -> None:
    nets = [trained(EXACT[name], seed) for seed in (0, 1)]
    states = [entries(plain(net)) for net in nets]
    mean = {key: (states[0][key] + states[1][key]) / 2 for key in states[0]}
    back = dressed(nets[0], mean, exactly=True)
    for key, value in entries(plain(back)).items():
        torch.testing.assert_close(value, mean[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NORMED)
def test_a_spectral_norm_is_one_and_is_derived_again(name: str) -> None:
    """Of the mean W it computes with W / s, s the largest singular value; a further pass changes nothing."""
    nets = [trained(NORMED[name], seed) for seed in (0, 1)]
    states = [entries(plain(net)) for net in nets]
    mean = {key: (states[0][key] + states[1][key]) / 2 for key in states[0]}
    back = dressed(nets[0], mean)
    weight = entries(plain(back))["0.weight"]
    size = torch.linalg.svdvals(mean["0.weight"])[0]
    assert size < 0.99
    torch.testing.assert_close(weight, mean["0.weight"] / size)
    back.train()(torch.rand(2, 4))
    torch.testing.assert_close(entries(plain(back))["0.weight"], weight)
    with refused("0.weight", "SpectralNorm"):
        dressed(nets[0], mean, exactly=True)


def test_the_mean_of_rotations_is_a_rotation() -> None:
    """By 20 and by 80 degrees: the nearest orthogonal matrix to their mean turns by 50."""

    def turned(degrees: float) -> Tensor:
        angle = torch.deg2rad(torch.tensor(degrees))
        return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)

    for map_ in ("matrix_exp", "cayley", "householder"):
        net = nn.Sequential(nn.Linear(2, 2, bias=False))
        parametrizations.orthogonal(net[0], orthogonal_map=map_)
        back = dressed(net, {"0.weight": (turned(20) + turned(80)) / 2})
        torch.testing.assert_close(back[0].weight, turned(50))
    with refused("0.weight", "singular"):
        dressed(net, {"0.weight": torch.zeros(2, 2)})


def test_masks_grow_to_what_is_not_zero() -> None:
    """Weights (1, 2) and (3, 4), one entry pruned in each: (1, 0) and (0, 4), mean (.5, 2)."""
    nets = []
    for weight, mask in (([1.0, 2.0], [1, 0]), ([3.0, 4.0], [0, 1])):
        net = nn.Linear(2, 1, bias=False)
        net.weight.data = torch.tensor([weight])
        nets.append(prune.custom_from_mask(net, "weight", torch.tensor([mask])))
    states = [entries(plain(net)) for net in nets]
    back = dressed(nets[0], {"weight": (states[0]["weight"] + states[1]["weight"]) / 2})
    assert back(torch.eye(2)).flatten().tolist() == [0.5, 2.0]
    assert back.weight_mask.tolist() == [[1.0, 1.0]]
    kept = dressed(nets[0], {"weight": torch.tensor([[3.0, 0.0]])})
    assert kept.weight_mask.tolist() == [[1.0, 0.0]]


def test_rows_of_zeros_stay_zero_under_a_weight_norm() -> None:
    for wrap in (parametrizations.weight_norm, nn.utils.weight_norm):
        net = nn.Linear(2, 2, bias=False)
        wrap(net)
        goal = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        torch.testing.assert_close(dressed(net, {"weight": goal})(torch.eye(2)), goal.T)


def test_what_cannot_hold_a_weight_is_refused_by_name() -> None:
    net = trained(custom(Squared()), 0)
    with refused("0.weight", "Squared"):
        dressed(net, entries(plain(net)))
    net = nn.Linear(3, 3)
    parametrizations.orthogonal(net, orthogonal_map="matrix_exp", use_trivialization=False)
    goal = torch.linalg.qr(torch.rand(3, 3, generator=torch.Generator().manual_seed(0))).Q
    with refused("weight", "Orthogonal", "right_inverse"):
        dressed(net, {"weight": goal, "bias": torch.zeros(3)})
