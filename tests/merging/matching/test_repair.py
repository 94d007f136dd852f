from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from tests.facts import refused

Make = Callable[..., nn.Module]


@torch.no_grad()
def statistics(model: nn.Module, layers: list[str], x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each channel of what these modules give."""
    found: list[Tensor] = []
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda m, i, out: found.append(out.double())) for name in layers
    ]
    model(x)
    for handle in handles:
        handle.remove()
    rows = [value.movedim(1, -1).flatten(0, -2) for value in found]
    return [(r.mean(0), r.std(0, correction=0)) for r in rows]


def pre_activations(model: nn.Module) -> list[str]:
    """The batch norms and the layers without one, in order: where the channels' statistics are repaired."""
    named = [
        (n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    followed = [isinstance(m, nn.BatchNorm2d) for _, m in named[1:]] + [False]
    return [name for (name, _), norm in zip(named, followed, strict=True) if not norm]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg"])
def test_channels_have_the_means_and_deviations_of_the_parents(
    name: str, network: Make, images: Tensor
) -> None:
    """After the mean with weights 3/4 and 1/4, sums of the parents' statistics with these weights."""
    models = [network(name, seed) for seed in range(2)]
    start = network(name, 9)
    fused = fm.merge(models, "mean", data=images, weights=[3.0, 1.0], after="repair").model
    layers = pre_activations(start)
    first, second, found = (statistics(model, layers, images) for model in (*models, fused))
    for (mean_a, sd_a), (mean_b, sd_b), (mean, sd) in zip(first, second, found, strict=True):
        torch.testing.assert_close(mean, 0.75 * mean_a + 0.25 * mean_b, rtol=1e-4, atol=1e-4)
        alive = sd > 1e-6
        torch.testing.assert_close(sd[alive], (0.75 * sd_a + 0.25 * sd_b)[alive], rtol=1e-4, atol=1e-4)
        assert alive.double().mean() > 0.7


def test_matched_neurons_are_repaired_to_the_neurons_they_stand_for(
    network: Make, permuted: Make, images: Tensor, unseen: Tensor
) -> None:
    """A model and its copy in another order, matched: every channel is right already, nothing changes."""
    model = network("mlp")
    fused = fm.merge([model, permuted(model, images)], "rebasin", data=images, after="repair").model
    torch.testing.assert_close(fused(unseen), model(unseen), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("norms", "tolerance"), [(1, 1e-5), (8, 1e-2)])
def test_re_estimation_is_one_pass_in_training_mode(
    norms: int, tolerance: float, network: Make, images: Tensor
) -> None:
    """The merged model, run once on all images with a cumulative average (momentum None).

    In training mode each batch norm normalises by the batch's own variance, in evaluation by the unbiased one
    that is stored: n / (n - 1) as large, 200 / 199 where one pixel of each of 200 images is left. So only the
    first norm is equal to rounding; each of the four that see one pixel differs by half of 1 / 199 in scale.
    """
    models = [network("vgg", seed) for seed in range(2)]
    wanted = copy.deepcopy(fm.merge(models, "mean", data=images).model).train()
    for module in wanted.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        wanted(images)
    found = fm.merge(models, "mean", data=images, after="batch-norm").model.state_dict()
    keys = [key for key in found if "running" in key][: 2 * norms]
    assert len(keys) == 2 * norms
    for key in keys:
        value = wanted.state_dict()[key]
        assert (found[key] - value).abs().max() <= tolerance * value.abs().max(), key


def test_a_network_without_batch_norm_has_nothing_to_re_estimate(network: Make, images: Tensor) -> None:
    models = [network("mlp", seed) for seed in range(2)]
    plain, after = (fm.merge(models, "mean", data=images, after=a).model for a in ("none", "batch-norm"))
    assert torch.equal(plain(images), after(images))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ensemble-logits", {"after": "repair"}, ("several", "network")),
        ("mean", {"after": "repair", "data": None}, ("data=", "hundred")),
        ("mean", {"after": "polish"}, ("polish", "none", "repair", "batch")),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    method: str, options: dict[str, Any], message: tuple[object, ...], network: Make, images: Tensor
) -> None:
    models = [network("mlp", seed) for seed in range(2)]
    with refused(*message):
        fm.merge(models, method, **{"data": images, **options})
