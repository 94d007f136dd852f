"""What holds for every method that matches neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm

Make = Callable[..., nn.Module]
EXACT = 1e-5  # of the largest output; float32 weights
FIT = 1e-2  # a ridge of 1e-6 that pulls to zero
METHODS: list[tuple[str, dict[str, Any], float]] = [
    ("hf", {}, EXACT),
    ("hf", {"refit": False}, EXACT),
    ("hf", {"towards": "zero"}, FIT),
    ("hf", {"cost": "l2"}, EXACT),
    ("kf", {}, EXACT),
    ("kf", {"refit": False}, EXACT),
    ("kf", {"towards": "zero"}, FIT),
    ("rebasin", {}, EXACT),
    ("rebasin", {"by": "weights"}, EXACT),
    ("ot", {}, EXACT),
]
IDS = [f"{method} {options}" for method, options, _ in METHODS]
DEEP = [("hf", {}, EXACT), ("kf", {"refit": False}, EXACT), ("rebasin", {}, EXACT), ("ot", {}, EXACT)]


@torch.no_grad()
def distance(fused: nn.Module, model: nn.Module, x: Tensor) -> float:
    """The largest difference of outputs, in units of the largest output."""
    wanted = model(x)
    return float((fused(x) - wanted).abs().max() / wanted.abs().max())


def check_permuted(
    name: str, method: str, options: dict[str, Any], tolerance: float, make: Make, copy_of: Make, x: Tensor
) -> None:
    model = make(name)
    other = copy_of(model, x)
    assert distance(fm.merge([model, other], "mean").model, model, x) > 0.05  # the order does matter
    assert distance(fm.merge([model, other], method, data=x, **options).model, model, x) < tolerance


@pytest.mark.parametrize(("method", "options", "tolerance"), METHODS, ids=IDS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_permuted_copy_fuses_back_to_the_same_function(
    name: str,
    method: str,
    options: dict[str, Any],
    tolerance: float,
    network: Make,
    permuted: Make,
    images: Tensor,
) -> None:
    check_permuted(name, method, options, tolerance, network, permuted, images)


@pytest.mark.parametrize(("method", "options", "tolerance"), DEEP, ids=[method for method, _, _ in DEEP])
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_batch_norm_and_residual_streams_fuse_back_too(
    name: str,
    method: str,
    options: dict[str, Any],
    tolerance: float,
    network: Make,
    permuted: Make,
    images: Tensor,
) -> None:
    check_permuted(name, method, options, tolerance, network, permuted, images[:40])


@pytest.mark.parametrize("options", [{}, {"method": "kf"}], ids=["hf", "kf"])
def test_a_third_copy_in_another_order_is_recovered(
    options: dict[str, str], network: Make, permuted: Make, images: Tensor, unseen: Tensor
) -> None:
    model = network("mlp")
    three = [model, permuted(model, images, 5), permuted(model, images, 6)]
    fused = fm.merge(three, options.get("method", "hf"), data=images).model
    assert distance(fused, model, unseen) < EXACT


@pytest.mark.parametrize(("method", "options", "tolerance"), [*METHODS, ("regmean", {}, EXACT)])
def test_fusing_a_model_with_itself_is_the_identity(
    method: str, options: dict[str, Any], tolerance: float, network: Make, images: Tensor
) -> None:
    model = network("cnn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fm.merge([model, model], method, data=images, **options).model
    assert distance(fused, model, images) < tolerance
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("method", "options", "tolerance"), METHODS, ids=IDS)
def test_classes_keep_their_order(
    method: str, options: dict[str, Any], tolerance: float, network: Make, permuted: Make, images: Tensor
) -> None:
    """Class 2 is the answer of one model and its copy for every image; so it is of the fused model."""
    model = network("mlp")
    with torch.no_grad():
        model[5].bias.copy_(torch.tensor([0.0, 0.0, 20.0]))
    fused = fm.merge([model, permuted(model, images)], method, data=images, **options).model
    assert (fused(images).argmax(1) == 2).all()


@pytest.mark.parametrize("method", ["hf", "kf", "rebasin", "ot", "regmean"])
def test_the_same_seed_gives_the_same_bits(method: str, network: Make, images: Tensor) -> None:
    models = [network("mlp", seed) for seed in range(2)]
    one, two = (fm.merge(models, method, data=images, seed=3).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("method", ["hf", "kf", "rebasin", "ot"])
def test_a_one_by_one_convolution_is_a_linear_layer(method: str) -> None:
    """The same weights as linear layers on vectors and as convolutions on images of one pixel."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=rng)

    def pair(seed: int) -> tuple[nn.Module, nn.Module]:
        draws = torch.Generator().manual_seed(seed)
        plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        conv = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        state = {k: torch.randn(v.shape, generator=draws) for k, v in plain.state_dict().items()}
        plain.load_state_dict(state)
        renamed = {k.replace("2.", "3."): v for k, v in state.items()}
        conv.load_state_dict({**renamed, "0.weight": state["0.weight"][:, :, None, None]})
        return plain.eval(), conv.eval()

    plains, convs = zip(pair(0), pair(1), strict=True)
    linear = fm.merge(list(plains), method, data=x).model
    conv = fm.merge(list(convs), method, data=x[:, :, None, None]).model
    torch.testing.assert_close(conv(x[:, :, None, None]), linear(x), rtol=1e-4, atol=1e-4)
