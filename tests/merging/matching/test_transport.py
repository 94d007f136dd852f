from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.models import ModelSpec, build
from tests.facts import refused

Make = Callable[..., nn.Module]


def hidden(weights: list[float], head: list[float]) -> nn.Module:
    """One input, hidden neurons ``w x`` without bias, two outputs of the same weights; nothing between."""
    net = nn.Sequential(nn.Linear(1, len(weights), bias=False), nn.Linear(len(weights), 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(weights)[:, None])
        net[1].weight.copy_(torch.tensor([head, head]))
    return net.eval()


X = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))


def test_a_wide_model_is_moved_onto_a_narrow_one() -> None:
    """Neurons 1 and 10 are the target. Of 1.2, 0.8, 10, 12 the first two go to 1, the others to 10: each
    carries 1/4 onto 1/2. Incoming weights are means (1 and 11), outgoing ones ``W T' / nu'`` are halves
    summed over the pairs: heads 1, 3, 5, 7 become 2 and 6 times (1/4)/(1/2) each: (1 + 3)/2, (5 + 7)/2. The
    fused model is the mean with the target."""
    wide = hidden([1.2, 0.8, 10.0, 12.0], [1.0, 3.0, 5.0, 7.0])
    fused = fm.merge([hidden([1.0, 10.0], [4.0, 8.0]), wide], "ot", data=X).model
    torch.testing.assert_close(fused[0].weight[:, 0], torch.tensor([1.0, 10.5]))
    torch.testing.assert_close(fused[1].weight[0], torch.tensor([3.0, 7.0]))


def test_both_marginals_agree_where_they_are_equal(network: Make, images: Tensor) -> None:
    models = [network("mlp", seed) for seed in range(2)]
    target, source = (
        fm.merge(models, "ot", data=images, marginal=marginal).model for marginal in ("target", "source")
    )
    torch.testing.assert_close(target(images), source(images))


def test_the_form_of_the_other_paper_divides_by_the_source(images: Tensor) -> None:
    """``diag(1/mu)`` in place of ``diag(1/nu)``: with 4 neurons onto 2, twice the sums of weights."""
    models = [hidden([1.0, 10.0], [4.0, 8.0]), hidden([1.2, 0.8, 10.0, 12.0], [1.0, 3.0, 5.0, 7.0])]
    fused = fm.merge(models, "ot", data=X, marginal="source").model
    torch.testing.assert_close(fused[0].weight[:, 0], torch.tensor([1.5, 16.0]))


def test_equal_widths_make_the_plan_a_permutation(images: Tensor) -> None:
    """The cheapest one for the sum of distances of pre-activations, found by linear assignment on them."""

    def net(seed: int) -> nn.Module:
        draws = torch.Generator().manual_seed(seed)
        parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 3))
        for p in parts.parameters():
            nn.init.normal_(p, 0, 0.2, generator=draws)
        return parts.eval()

    first, second = net(0), net(1)
    cost = torch.cdist(first[:2](images).T, second[:2](images).T).detach()
    order = linear_sum_assignment(cost.numpy())[1]
    fused = fm.merge([first, second], "ot", data=images).model
    mean = (first[1].weight + second[1].weight[order]) / 2
    torch.testing.assert_close(fused[1].weight, mean)
    mean = (first[3].weight + second[3].weight[:, order]) / 2
    torch.testing.assert_close(fused[3].weight, mean)


def test_group_norm_is_refused(images: Tensor) -> None:
    options = {"width": 4, "norm": "group"}
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options=options)
    with refused("rebasin", "hf", "features.0"):
        fm.merge([build(spec, seed).eval() for seed in range(2)], "ot", data=images)


def test_the_first_model_must_have_the_width_to_be_made(network: Make, images: Tensor) -> None:
    models = [network("mlp", 0, hidden=8), network("mlp", 1)]
    with refused("8 neurons", "'1'", 12):
        fm.merge(models, "ot", data=images, into=network("mlp", 2))
