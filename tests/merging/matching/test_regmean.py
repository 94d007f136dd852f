from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from tests.facts import refused

RNG = torch.Generator().manual_seed(0)


def linear(bias: bool = True) -> nn.Module:
    """Two layers without anything between them, so that the second one's inputs differ by model."""
    net = nn.Sequential(nn.Linear(5, 4, bias=bias), nn.Linear(4, 3, bias=bias))
    for p in net.parameters():
        nn.init.normal_(p, generator=RNG)
    return net.eval()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_linear_model_has_a_closed_form(alpha: float) -> None:
    """``(G_1 + G_2)^-1 (G_1 W_1 + G_2 W_2)``, G_m of the model's own inputs, off the diagonal times alpha."""
    models, x = [linear(), linear()], torch.randn(40, 5, generator=RNG)
    fused = fm.merge(models, "regmean", data=x, off_diagonal=alpha, ridge=0.0).model
    left, right = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    for model in models:
        h = model[0](x).detach().double()
        gram = alpha * h.T @ h + (1 - alpha) * torch.diag((h.T @ h).diagonal())
        left += gram
        right += gram @ model[1].weight.detach().double().T
    torch.testing.assert_close(
        fused[1].weight.double().T,
        torch.linalg.solve(left, right),
        rtol=1e-4,
        atol=1e-5,
    )
    bias = (models[0][1].bias + models[1][1].bias) / 2
    torch.testing.assert_close(fused[1].bias, bias)


def test_where_all_see_the_same_it_is_the_mean() -> None:
    """The first layer's inputs are the images, for every model."""
    models, x = [linear(False) for _ in range(3)], torch.randn(40, 5, generator=RNG)
    found = fm.merge(models, "regmean", data=x).model[0].weight
    mean = torch.stack([model[0].weight for model in models]).mean(0)
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)


def test_an_input_that_is_always_zero_gets_the_mean_of_its_weights() -> None:
    models, x = [linear(False) for _ in range(2)], torch.randn(40, 5, generator=RNG)
    x[:, 2] = 0
    found = fm.merge(models, "regmean", data=x).model[0].weight
    mean = (models[0][0].weight + models[1][0].weight) / 2
    torch.testing.assert_close(found[:, 2], mean[:, 2])


def test_depthwise_convolutions_are_merged_channel_by_channel() -> None:
    """A depthwise 1 x 1 convolution: each channel has one weight, ``(g_1 w_1 + g_2 w_2) / (g_1 + g_2)`` with
    g the sum of its squared inputs."""

    def net() -> nn.Module:
        parts = nn.Sequential(
            nn.Conv2d(2, 3, 1, bias=False),
            nn.Conv2d(3, 3, 1, groups=3, bias=False),
            nn.Flatten(),
            nn.Linear(12, 2),
        )
        for p in parts.parameters():
            nn.init.normal_(p, generator=RNG)
        return parts.eval()

    models, x = [net(), net()], torch.randn(20, 2, 2, 2, generator=RNG)
    found = fm.merge(models, "regmean", data=x, ridge=0.0).model[1].weight.flatten()
    g = torch.stack([model[0](x).square().sum((0, 2, 3)) for model in models])
    w = torch.stack([model[1].weight.flatten() for model in models])
    torch.testing.assert_close(found, (g * w).sum(0) / g.sum(0))


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_off_diagonal_lies_between_zero_and_one(alpha: float) -> None:
    with refused("off_diagonal", alpha, "lie", "0", "1"):
        fm.merge([linear(), linear()], "regmean", data=torch.randn(4, 5), off_diagonal=alpha)


def test_other_widths_are_refused(network: Callable[..., nn.Module], images: Tensor) -> None:
    with refused("shape", "1.weight"):
        fm.merge([network("mlp"), network("mlp", 1, hidden=7)], "regmean", data=images)
