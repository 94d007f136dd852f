from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import fedmerge as fm
from tests.facts import refused

Make = Callable[..., nn.Module]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "resnet"])
@pytest.mark.parametrize("seed", [5, 6])
def test_weights_alone_recover_a_random_order(
    name: str, seed: int, network: Make, permuted: Make, images: Tensor
) -> None:
    """Every tensor of the mean is that of model 0 again; no image decides (two are needed to follow it)."""
    model = network(name)
    other = permuted(model, images, seed)
    assert any(not torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
    fused = fm.merge([model, other], "rebasin", data=images[:2], by="weights").model
    for key, value in fused.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-5, atol=1e-6)


def test_three_models_are_each_matched_to_the_first(network: Make, permuted: Make, images: Tensor) -> None:
    """A model and two copies, whose heads differ by known amounts: the mean head is off by their mean."""
    model = network("mlp")
    copies = [permuted(model, images, seed) for seed in (5, 6)]
    with torch.no_grad():
        for step, other in zip((1.0, 2.0), copies, strict=True):
            other[5].bias.add_(step)
    for by in ("activations", "weights"):
        fused = fm.merge([model, *copies], "rebasin", data=images, by=by).model
        torch.testing.assert_close(fused(images), model(images) + 1.0, rtol=1e-4, atol=1e-4)


def test_neurons_are_matched_by_what_they_do_after_the_relu() -> None:
    """Inputs in [0, 1]. Model 0's neurons after the ReLU: x and 0 (pre-activation x - 5). Model 1's: 0
    (x - 9) and 0.9 x. Whatever the negative part is, x goes with 0.9 x and the two dead ones together."""

    def net(weight: list[float], bias: list[float], head: list[float]) -> nn.Module:
        parts = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
        with torch.no_grad():
            parts[0].weight.copy_(torch.tensor(weight)[:, None])
            parts[0].bias.copy_(torch.tensor(bias))
            parts[2].weight.copy_(torch.tensor([head, head]))
            parts[2].bias.zero_()
        return parts.eval()

    x = torch.rand(20, 1, generator=torch.Generator().manual_seed(0))
    models = [net([1.0, 1.0], [0.0, -5.0], [1.0, 2.0]), net([1.0, 0.9], [-9.0, 0.0], [4.0, 3.0])]
    fused = fm.merge(models, "rebasin", data=x).model
    torch.testing.assert_close(fused[0].weight[:, 0], torch.tensor([0.95, 1.0]))
    torch.testing.assert_close(fused[0].bias, torch.tensor([0.0, -7.0]))
    torch.testing.assert_close(fused[2].weight[0], torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize(("cost", "power"), [("squared", 2), ("l2", 1)])
@pytest.mark.parametrize("attribution", ["uniform", "ablation"])
def test_the_pairing_is_the_cheapest_of_all(cost: str, power: int, attribution: str) -> None:
    """Four hidden neurons: all 24 orders are tried, ``sum_i 2 s_i s_j / (s_i + s_j) |relu a_i - relu b_j|``
    or its square; for these models the two have other winners. The merged bias tells the order taken."""

    def net(seed: int) -> nn.Module:
        parts = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        draws = torch.Generator().manual_seed(seed)
        for parameter in parts.parameters():
            nn.init.normal_(parameter, generator=draws)
        return parts.eval()

    x, y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    models = [net(seed) for seed in (6, 7)]
    with torch.no_grad():
        a, b = (model[:2](x).double() for model in models)
        s = torch.ones(2, 4, dtype=torch.float64)
        if attribution == "ablation":
            for m, h in enumerate((a, b)):
                s[m] = (h * models[m][2].weight.double()[y]).abs().mean(0) + 1e-8
    mass = 2 * s[0][:, None] * s[1] / (s[0][:, None] + s[1])
    table = mass * torch.cdist(a.T, b.T) ** power
    best = min(
        itertools.permutations(range(4)), key=lambda p: sum(float(table[i, j]) for i, j in enumerate(p))
    )
    options = {"attribution": attribution, "normalisation": "none", "cost": cost}
    fused = fm.merge(models, "rebasin", data=x, labels=y, **options).model
    order = torch.tensor(best)
    left, right = s[0], s[1][order]
    biases = [model[0].bias.detach().double() for model in models]
    wanted = (left * biases[0] + right * biases[1][order]) / (left + right)
    torch.testing.assert_close(fused[0].bias.detach().double(), wanted)
    other = mass * torch.cdist(a.T, b.T) ** (3 - power)
    assert best != tuple(linear_sum_assignment(other.numpy())[1].tolist())


def test_weights_have_no_attribution(network: Make, images: Tensor) -> None:
    with refused("attribution", "rebasin"):
        fm.merge(
            [network("mlp"), network("mlp", 1)],
            "rebasin",
            data=images,
            labels=torch.arange(200) % 3,
            by="weights",
            attribution="conductance",
        )
    with refused("squared", "rebasin"):
        fm.merge([network("mlp"), network("mlp", 1)], "rebasin", data=images, by="weights", cost="l2")


def test_missing_images_are_named(network: Make) -> None:
    with refused("rebasin", "data="):
        fm.merge([network("mlp"), network("mlp", 1)], "rebasin")


def test_other_widths_are_refused(network: Make, images: Tensor) -> None:
    with refused("shape", "1.weight"):
        fm.merge([network("mlp"), network("mlp", 1, hidden=7)], "rebasin", data=images)
