"""Importance where no group of neurons decides: in the output layer, and in layers that nothing can permute.

The importance of class c in model m by ablation has a formula of its own: only the logit of the true class
changes, by itself, so s_mc = (1/N) sum over images of class c of |z_mc|, plus 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedmerge as fm
from fedmerge.merging.neurons.maps import Correspondence
from fedmerge.models.graph import Neurons
from tests.facts import refused

Make = Callable[..., nn.Module]
AVERAGES: list[tuple[str, dict[str, Any]]] = [
    ("hf", {"refit": False}),
    ("kf", {"refit": False}),
    ("rebasin", {}),
]
Y = torch.arange(200) % 3


def logit_scores(model: nn.Module, x: Tensor, y: Tensor, normalisation: str = "none") -> Tensor:
    """s_mc of each class, by the formula above."""
    z = model(x).detach().double()
    scores = torch.stack([z[y == c, c].abs().sum() for c in range(z.shape[1])]) / len(x) + 1e-8
    return scores if normalisation == "none" else scores / scores.mean()


def weighted(scores: list[Tensor], values: list[Tensor]) -> Tensor:
    """``sum_m s_mc v_mc / sum_m s_mc`` along the last dimension."""
    total = sum(s * v.detach().double() for s, v in zip(scores, values, strict=True))
    assert isinstance(total, Tensor)
    return total / torch.stack(scores).sum(0)


@pytest.mark.parametrize("normalisation", ["none", "mean1"])
@pytest.mark.parametrize(("method", "options"), AVERAGES)
@pytest.mark.parametrize("models", [2, 3])
def test_the_bias_of_each_class_is_weighed_by_importance(
    method: str, options: dict[str, Any], normalisation: str, models: int, network: Make, images: Tensor
) -> None:
    parents = [network("mlp", seed) for seed in range(models)]
    scores = [logit_scores(parent, images, Y, normalisation) for parent in parents]
    fused = fm.merge(
        parents, method, data=images, labels=Y, attribution="ablation", normalisation=normalisation, **options
    ).model
    wanted = weighted(scores, [parent[5].bias for parent in parents])
    torch.testing.assert_close(fused[5].bias.double(), wanted, rtol=1e-5, atol=1e-6)
    plain = torch.stack([parent[5].bias for parent in parents]).mean(0).double()
    assert (wanted - plain).abs().max() > 1e-3  # it does matter


@pytest.mark.parametrize("method", ["hf", "kf"])
@pytest.mark.parametrize("kind", ["conductance", "deeplift", "ablation"])
def test_the_last_fit_is_to_the_weighted_logits(
    method: str, kind: str, network: Make, images: Tensor
) -> None:
    """Least squares without a ridge: the residual against the weighted logits is orthogonal to the layer's
    inputs. By conductance s_mc is |z_mc| between the outermost of the 11 Gauss-Legendre nodes, for the sum of
    steps telescopes where the slope is one; by DeepLIFT between the image and a black one."""
    parents = [network("mlp", seed) for seed in range(2)]
    outermost = 0.978228658146  # the largest root of the Legendre polynomial of degree 11
    ends = {"conductance": ((1 + outermost) / 2, (1 - outermost) / 2), "deeplift": (1.0, 0.0)}
    scores = []
    for parent in parents:
        if kind == "ablation":
            scores.append(logit_scores(parent, images, Y))
            continue
        steps = (parent(ends[kind][0] * images) - parent(ends[kind][1] * images)).detach().double().abs()
        scores.append(torch.stack([steps[c == Y, c].sum() for c in range(3)]) / len(images) + 1e-8)
    options = {"attribution": kind, "normalisation": "none", "solver": "pinv", "towards": "zero"}
    fused = fm.merge(parents, method, data=images, labels=Y, **options).model
    with torch.no_grad():
        rows = torch.cat([fused[:5](images), torch.ones(len(images), 1)], 1).double()
        residual = fused(images).double() - weighted(scores, [parent(images) for parent in parents])
    assert (rows.T @ residual).abs().max() < 1e-3
    assert residual.abs().max() > 1e-2  # nothing fits it exactly


def test_the_gradient_variant_fits_the_weighted_logits(network: Make, images: Tensor) -> None:
    parents = [network("mlp", seed) for seed in range(2)]
    scores = [logit_scores(parent, images, Y, "mean1") for parent in parents]
    options = {"attribution": "ablation", "closed_form": {"ridge": 1e-10}}
    fused = fm.merge(parents, "kf-gradient", data=images, labels=Y, **options).model
    with torch.no_grad():
        rows = torch.cat([fused[:5](images), torch.ones(len(images), 1)], 1).double()
        residual = fused(images).double() - weighted(scores, [parent(images) for parent in parents])
    assert (rows.T @ residual).abs().max() < 1e-3


@pytest.mark.parametrize(("method", "options"), AVERAGES)
def test_a_class_without_images_counts_every_model_alike(
    method: str, options: dict[str, Any], network: Make, images: Tensor
) -> None:
    """No image of class 2: nothing is known of it, whatever the scores' scale in each model."""
    parents = [network("mlp", seed) for seed in range(2)]
    with torch.no_grad():
        parents[1][5].weight.mul_(5)
    labels = Y % 2
    fused = fm.merge(parents, method, data=images, labels=labels, attribution="ablation", **options).model
    mean = (parents[0][5].bias[2] + parents[1][5].bias[2]) / 2
    torch.testing.assert_close(fused[5].bias[2], mean)


class Tied(nn.Module):
    """Hidden neurons that cannot change places, for each is added to an input of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed + parameter.numel()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((x + self.hidden(x)).relu())
        return out


@pytest.mark.parametrize(("method", "options"), AVERAGES)
def test_a_hidden_layer_that_keeps_its_order_is_weighed_as_well(method: str, options: dict[str, Any]) -> None:
    """By hand: a hidden neuron's score is how far the true class's logit moves when it is set to zero."""
    x, y = torch.randn(50, 6, generator=torch.Generator().manual_seed(3)), torch.arange(50) % 3
    parents = [Tied(seed).eval() for seed in range(2)]
    scores = []
    for parent in parents:
        with torch.no_grad():
            z = parent.hidden(x)
            each = []
            for neuron in range(6):
                without = z.clone()
                without[:, neuron] = 0
                moved = parent.head((x + z).relu()) - parent.head((x + without).relu())
                each.append(moved.gather(1, y[:, None]).abs().mean() + 1e-8)
        scores.append(torch.stack(each).double())
    given = {"attribution": "ablation", "normalisation": "none", **options}
    fused = fm.merge(parents, method, data=x, labels=y, **given).model
    wanted = weighted(scores, [parent.hidden.weight.T for parent in parents]).T
    torch.testing.assert_close(fused.hidden.weight.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_batch_norm_behind_the_output_layer_is_weighed_too() -> None:
    """Mean and affine part like the weights, the variance as that of the mixture with the same shares."""

    def classes(seed: int) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(5, 3), nn.BatchNorm1d(3))
        draws = torch.Generator().manual_seed(seed)
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 2.0, generator=draws)
        return net.eval()

    x, y = torch.randn(40, 1, 1, 5, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
    parents = [classes(seed) for seed in range(2)]
    scores = [logit_scores(parent, x, y) for parent in parents]
    options = {"refit": False, "attribution": "ablation", "normalisation": "none"}
    fused = fm.merge(parents, "hf", data=x, labels=y, **options).model[2]
    norms = [parent[2] for parent in parents]
    mean = weighted(scores, [norm.running_mean for norm in norms])
    square = weighted(scores, [norm.running_var + norm.running_mean.square() for norm in norms])
    torch.testing.assert_close(fused.running_mean.double(), mean)
    torch.testing.assert_close(fused.running_var.double(), square - mean.square())
    torch.testing.assert_close(fused.bias.double(), weighted(scores, [norm.bias for norm in norms]))


def test_what_keeps_its_place_is_found_where_each_width_has_it() -> None:
    """The head reads hidden neurons and, behind them, the image itself: its weights on the image stand at
    another place in each parent."""

    class Wide(nn.Module):
        def __init__(self, hidden: int, seed: int) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(6, hidden), nn.Linear(hidden + 6, 3)
            draws = torch.Generator().manual_seed(seed)
            for parameter in self.parameters():
                nn.init.normal_(parameter, generator=draws)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.cat([self.hidden(x).relu(), x], 1))
            return out

    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(2))
    parents = [Wide(5, 0).eval(), Wide(8, 1).eval()]
    fused = fm.merge(parents, "kf", data=x, into=Wide(7, 2).eval(), refit=False).model
    wanted = (parents[0].head.weight[:, 5:] + parents[1].head.weight[:, 8:]) / 2
    torch.testing.assert_close(fused.head.weight[:, 7:], wanted)


@pytest.mark.parametrize(
    ("method", "attribution"), [("kf", "ablation"), ("kf", "uniform"), ("ot", "uniform")]
)
@pytest.mark.parametrize("refit", [True, False])
def test_other_numbers_of_classes_are_a_sentence(
    method: str, attribution: str, refit: bool, images: Tensor
) -> None:
    def net(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes)).eval()

    options = {"attribution": attribution} | ({"refit": refit} if method == "kf" else {})
    with refused("4", "5", "classes"):
        fm.merge([net(4), net(5)], method, data=images, labels=Y, **options)


def test_other_numbers_of_inputs_are_a_sentence() -> None:
    """Inputs of no group are counted in each parent."""
    neurons = Neurons((), {"w": {1: ()}}, ())
    maps = Correspondence(neurons, [neurons, neurons], (0.5, 0.5))
    with refused("'w'", "7 inputs", 1, 6):
        maps.into("w", 1, [6, 7], 6)
