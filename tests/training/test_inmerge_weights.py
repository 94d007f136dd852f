"""Which weights In-Model Merging changes in place, and which it refuses by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from facts import refused
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from fedmerge.training.conv_layers import following_batch_norm, places
from fedmerge.training.filters import cosines
from fedmerge.training.inmerge import InMerge
from tests.training.inmerge_loops import ALWAYS


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def old(make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def quietly(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(layer)

    return quietly


def computed(layer: nn.Module) -> nn.Module:
    """A weight that the model sets anew, as a hypernetwork does."""
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.weight = weight
    return layer


DERIVED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight norm": (parametrizations.weight_norm, "_WeightNorm"),
    "old weight norm": (old(nn.utils.weight_norm), "WeightNorm"),
    "spectral norm": (parametrizations.spectral_norm, "_SpectralNorm"),
    "old spectral norm": (old(nn.utils.spectral_norm), "SpectralNorm"),
    "orthogonal": (parametrizations.orthogonal, "_Orthogonal"),
    "own": (lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()), "Doubled"),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "L1Unstructured"),
    "pruned twice": (
        lambda layer: prune.l1_unstructured(prune.l1_unstructured(layer, "weight", 2), "weight", 2),
        "PruningContainer",
    ),
    "computed": (computed, "the model"),
}


@pytest.mark.parametrize("kind", list(DERIVED))
def test_a_derived_weight_is_refused_by_name(small_network: nn.Module, kind: str) -> None:
    """Before the first step, and where it becomes one later; no weight is changed and nothing counted."""
    derive, maker = DERIVED[kind]
    inmerge = InMerge(small_network, **ALWAYS)
    derive(small_network[3])
    state = {key: value.clone() for key, value in small_network.state_dict().items()}
    with refused("3", "parameter", maker):
        inmerge.step()
    with refused("3", "parameter", maker):
        InMerge(small_network, **ALWAYS)
    assert set(inmerge.merges.values()) == {0}
    assert all(torch.equal(value, state[key]) for key, value in small_network.state_dict().items())


@pytest.mark.parametrize("kind", list(DERIVED))
def test_a_derived_weight_that_is_left_alone_disturbs_nobody(small_network: nn.Module, kind: str) -> None:
    DERIVED[kind][0](small_network[0])
    inmerge = InMerge(small_network, **ALWAYS | {"skip": 1})
    inmerge.step()
    assert inmerge.merges == {"3": 8}


def test_made_plain_again_it_is_merged(small_network: nn.Module) -> None:
    parametrizations.weight_norm(small_network[3])
    parametrize.remove_parametrizations(small_network[3], "weight")
    before = small_network[3].weight.clone()
    inmerge = InMerge(small_network, **ALWAYS)
    inmerge.step()
    assert inmerge.merges == {"0": 6, "3": 8}
    assert (before != small_network[3].weight).flatten(1).any(1).all()


def test_what_follows_may_not_be_derived_either(small_network: nn.Module) -> None:
    """Where it becomes so later, the pass is refused before its first merge."""
    inmerge = InMerge(small_network, **ALWAYS, bias="follow")
    parametrize.register_parametrization(small_network[4], "weight", Doubled())
    before = small_network[0].weight.clone()
    for step in (inmerge.step, lambda: InMerge(small_network, **ALWAYS, bias="follow")):
        with refused("the batch norm behind 3", "weight", "Doubled"):
            step()
    assert torch.equal(small_network[0].weight, before)
    InMerge(small_network, **ALWAYS).step()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: nn.Conv2d(1, 4, 3, dtype=torch.complex64), "torch.complex64"),
        (lambda: nn.LazyConv2d(4, 3), "no values yet"),
        (lambda: nn.Conv2d(1, 4, 3, device="meta"), "no values yet"),
    ],
)
def test_a_weight_without_a_cosine_is_refused_by_name(layer: Any, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(layer())
    with refused("0", "weight", words):
        InMerge(model, **ALWAYS)


class Sub(Tensor):
    pass


def test_a_tensor_subclass_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Sub))
    with refused("0", "weight", "Sub", "torch.float32"):
        InMerge(model, **ALWAYS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_theirs(dtype: torch.dtype) -> None:
    """With two filters, p = 1 and no threshold, a pass maps (1, 2) to (1.2, 1.8), rounded."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False, dtype=dtype))
    model[0].weight.data = torch.tensor([1.0, 2.0], dtype=dtype).view(2, 1, 1, 1)
    InMerge(model, **ALWAYS, layers="all").step()
    assert model[0].weight.dtype == dtype
    expected = torch.tensor([1.2, 1.8], dtype=dtype)
    torch.testing.assert_close(
        model[0].weight.data.flatten(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0
    )


class Shared(nn.Module):
    """One convolution in two places, each with a batch norm of its own, and a second one with its weight."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(1, 2, 1)
        conv.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        tied = nn.Conv2d(1, 2, 1)
        tied.weight = conv.weight
        self.first = nn.Sequential(conv, nn.BatchNorm2d(2))
        self.again = nn.Sequential(conv, nn.BatchNorm2d(2))
        self.tied = nn.Sequential(tied, nn.BatchNorm2d(2))
        for layer in (conv, tied):
            layer.bias.data = torch.tensor([10.0, 20.0])
        for branch in (self.first, self.again, self.tied):
            branch[1].running_mean = torch.tensor([10.0, 20.0])


def test_a_shared_convolution_is_merged_once_and_all_its_followers_follow() -> None:
    """(a, b) becomes (.8 a + .2 b, .2 a + .8 b), once: (1.2, 1.8) and (12, 18); twice were (1.32, 1.68)."""
    model = Shared()
    inmerge = InMerge(model, **ALWAYS, layers="all", bias="follow")
    inmerge.step()
    assert inmerge.merges == {"first.0": 2}
    torch.testing.assert_close(model.first[0].weight.data.flatten(), torch.tensor([1.2, 1.8]))
    for branch in (model.first, model.again, model.tied):
        torch.testing.assert_close(branch[0].bias.data, torch.tensor([12.0, 18.0]))
        torch.testing.assert_close(branch[1].running_mean, torch.tensor([12.0, 18.0]))


def test_a_convolution_by_itself_is_a_model_too() -> None:
    layer = nn.Conv2d(1, 2, 1)
    layer.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    InMerge(layer, **ALWAYS, layers="all", bias="follow").step()
    torch.testing.assert_close(layer.weight.data.flatten(), torch.tensor([1.2, 1.8]))


def test_a_convolution_that_is_called_twice_in_one_sequence_has_both_its_followers() -> None:
    conv = nn.Conv2d(1, 1, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(1), conv, nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1))
    assert [following_batch_norm(model, place) for place in places(model, conv)] == [model[1], model[3]]


def test_small_filters_of_double_precision_have_a_cosine() -> None:
    """Their norms' product, 1e-60, is no float32; the cosine of (1, 1) and (1, 0) is 0.71."""
    rows = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    small = cosines(rows[:1] * 1e-30, rows[1:] * 1e-30)
    torch.testing.assert_close(small, torch.tensor([0.5**0.5], dtype=torch.float64))


@pytest.mark.parametrize("model", ["vgg16", None, {"conv": nn.Conv2d(1, 2, 1)}], ids=str)
def test_what_is_no_network_is_refused(model: Any) -> None:
    with refused("nn.Module", type(model).__name__):
        InMerge(model, **ALWAYS)
