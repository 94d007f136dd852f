from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.merging.neurons.kmeans import averaging, kmeans
from fedmerge.models import ModelSpec, build
from tests.facts import refused

Make = Callable[..., nn.Module]


def test_the_cost_is_the_error_of_the_fit_plus_the_error_of_grouping() -> None:
    """(C.2): ``sum_j s_j |y_k(j) - z_j|^2 = sum_k S_k |y_k - T_k|^2 + sum_j s_j |T_k(j) - z_j|^2`` with y the
    least-squares fit of the weighted means T; and k-means counts the left side."""
    rng = torch.Generator().manual_seed(0)
    x, z = (torch.randn(50, n, generator=rng, dtype=torch.float64) for n in (12, 30))
    s = torch.rand(30, generator=rng, dtype=torch.float64) + 0.1
    fit = x @ torch.linalg.pinv(x) @ z
    found = kmeans(z.T @ z, fit.T @ fit, s, 8, rng=rng, cost="squared", gain=0.0)
    mix = averaging(found.assignment, s, 8)
    target, y, k = z @ mix.T, fit @ mix.T, found.assignment
    totals = torch.zeros(8, dtype=torch.float64).index_add_(0, k, s)
    approximation = float((totals * (y - target).square().sum(0)).sum())
    grouping = float((s * (target[:, k] - z).square().sum(0)).sum())
    assert float((s * (y[:, k] - z).square().sum(0)).sum()) == pytest.approx(approximation + grouping)
    assert found.cost == pytest.approx(approximation + grouping)


def test_as_many_neurons_as_all_parents_have_reproduce_them_all(
    network: Make, images: Tensor, unseen: Tensor
) -> None:
    """With a hidden layer of 12 + 7 neurons, those of both parents are there, in some order; the last layers
    then fit what the parents' are: each the mean of the parents' outputs."""

    def shallow(hidden: int, seed: int) -> nn.Module:
        draws = torch.Generator().manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        for p in net.parameters():
            nn.init.normal_(p, 0, 0.2, generator=draws)
        return net.eval()

    parents = [shallow(12, 0), shallow(7, 1)]
    fused = fm.merge(parents, "kf", data=images, into=shallow(19, 2), solver="pinv").model
    hidden = torch.cat([parent[:2](unseen) for parent in parents], 1)
    found = fused[:2](unseen)
    nearest = torch.cdist(hidden.T, found.T).min(1)
    assert sorted(nearest.indices.tolist()) == list(range(19))
    assert nearest.values.max() < 1e-4
    mean = torch.stack([parent(unseen) for parent in parents]).mean(0)
    torch.testing.assert_close(fused(unseen), mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hidden", [5, 12, 16])
def test_other_widths_give_the_width_asked_for(hidden: int, network: Make, images: Tensor) -> None:
    parents = [network("mlp", 0, hidden=12), network("mlp", 1, hidden=8)]
    fused = fm.merge(parents, "kf", data=images, into=network("mlp", 2, hidden=hidden)).model
    assert fused[1].weight.shape == (hidden, 64)
    assert fused(images[:2]).shape == (2, 3)
    assert (fused[1].weight.abs().amax(1) > 0).all()


def test_duplicated_neurons_leave_no_neuron_zero(network: Make, images: Tensor) -> None:
    """Parents with three different hidden neurons, four times each: nine of twelve clusters start empty."""
    parents = [network("mlp", seed) for seed in range(2)]
    with torch.no_grad():
        for parent in parents:
            layer = parent[1]
            layer.weight.copy_(parents[0][1].weight[:3].repeat(4, 1))
            layer.bias.copy_(parents[0][1].bias[:3].repeat(4))
    fused = fm.merge(parents, "kf", data=images).model
    assert (fused[1].weight.abs().amax(1) > 1e-3).all()
    points = torch.cdist(fused[1].weight, parents[0][1].weight[:3])
    assert points.min(1).values.max() < 1e-3


def test_blocks_are_paired_in_place_of_clustered(images: Tensor) -> None:
    """Groups of group norm move whole, so where every layer has one KF does what HF does."""
    options = {"width": 4, "norm": "group"}
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options=options)
    models = [build(spec, seed).eval() for seed in range(2)]
    kf, hf = (fm.merge(models, method, data=images) for method in ("kf", "hf"))
    torch.testing.assert_close(kf.model(images), hf.model(images))


def test_missing_images_are_named(network: Make) -> None:
    with refused("'kf'", "data="):
        fm.merge([network("mlp", seed) for seed in range(2)], "kf")


def test_attribution_needs_classes(network: Make, images: Tensor) -> None:
    with refused("'kf'", "labels="):
        fm.merge([network("mlp", seed) for seed in range(2)], "kf", data=images, attribution="conductance")


def test_importances_may_be_in_any_unit(network: Make, images: Tensor) -> None:
    """A model's conductance is proportional to its logits: head weights four times as large, in all models
    alike, scale every score by four, and the hidden layers must not notice (powers of two are exact)."""
    labels = torch.arange(len(images)) % 3
    parents = [network("mlp", seed) for seed in range(2)]
    options = {"attribution": "conductance", "normalisation": "none"}
    one = fm.merge(parents, "kf", data=images, labels=labels, **options).model
    with torch.no_grad():
        for parent in parents:
            parent[5].weight.mul_(4)
            parent[5].bias.mul_(4)
    two = fm.merge(parents, "kf", data=images, labels=labels, **options).model
    torch.testing.assert_close(one[1].weight, two[1].weight)
    torch.testing.assert_close(one[3].weight, two[3].weight)
