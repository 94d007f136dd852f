from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.errors import FedMergeError

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


def test_weights_have_no_attribution(network: Make, images: Tensor) -> None:
    with pytest.raises(FedMergeError, match="leave attribution at uniform"):
        fm.merge(
            [network("mlp"), network("mlp", 1)],
            "rebasin",
            data=images,
            labels=torch.arange(200) % 3,
            by="weights",
            attribution="conductance",
        )


def test_missing_images_are_named(network: Make) -> None:
    with pytest.raises(FedMergeError, match="'rebasin' needs fusion images: pass data="):
        fm.merge([network("mlp"), network("mlp", 1)], "rebasin")


def test_other_widths_are_refused(network: Make, images: Tensor) -> None:
    with pytest.raises(FedMergeError, match="shape"):
        fm.merge([network("mlp"), network("mlp", 1, hidden=7)], "rebasin", data=images)
