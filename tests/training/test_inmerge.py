"""A pass of In-Model Merging over the filters: its equations, its draws, its limits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.state import state_hash
from fedmerge.seeding import generator
from fedmerge.training.filters import draw_pairs
from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS, same, weights


def conv(filters: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(filters.shape[1], filters.shape[0], tuple(filters.shape[2:]), bias=False)
    layer.weight.data = filters.clone()
    return layer


def layer_in_model(layer: nn.Conv2d) -> nn.Module:
    return nn.Sequential(layer)


def random_filters(n: int, seed: int = 0) -> Tensor:
    """n filters of 3 x 2 x 2 around a common one, so that cosines lie on both sides of 0.5."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 2, generator=draws) + torch.randn(n, 3, 2, 2, generator=draws)


@pytest.mark.parametrize("options", [{"tau": 1.0}, {"p": 0.0}, {"alpha": 1.0}], ids=str)
def test_nothing_changes_at_the_ends_of_the_options(options: dict[str, float]) -> None:
    """No cosine exceeds 1; no filter tries at p = 0; alpha = 1 keeps all of itself."""
    filters = random_filters(12)
    filters[5:9] = filters[5] * torch.tensor([1.0, 2.0, 3.0, 7.0]).view(-1, 1, 1, 1)
    layer = conv(filters)
    InMerge(layer_in_model(layer), **{**ALWAYS, **options}).step()
    assert torch.equal(layer.weight, filters)


@pytest.mark.parametrize("mode", ["simultaneous", "sequential"])
def test_equal_filters_stay_fixed(mode: Any) -> None:
    filters = random_filters(1).repeat(9, 1, 1, 1)
    layer = conv(filters)
    InMerge(layer_in_model(layer), **ALWAYS, mode=mode).step()
    assert torch.equal(layer.weight, filters)


def test_every_filter_changes_at_p_one_and_no_threshold(small_network: nn.Module) -> None:
    before = weights(small_network)
    inmerge = InMerge(small_network, **ALWAYS)
    inmerge.step()
    after = weights(small_network)
    for index, name in enumerate(small_network.state_dict()):
        if name in ("0.weight", "3.weight"):
            assert (before[index] != after[index]).flatten(1).any(1).all()
        else:
            assert torch.equal(before[index], after[index])
    assert inmerge.merges == {"0": 6, "3": 8}


def test_draws_depend_only_on_the_seed(make_network: Callable[[], nn.Module]) -> None:
    def run(seed: int) -> list[Tensor]:
        model = make_network()
        inmerge = InMerge(model, **{**ALWAYS, "p": 0.5}, seed=seed)
        torch.rand(seed + 1)
        inmerge.step()
        inmerge.step()
        return weights(model)

    before = torch.random.get_rng_state()
    InMerge(make_network(), **ALWAYS).step()
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(run(3), run(3))
    assert not same(run(3), run(4))


def naive_pass(filters: Tensor, pairs: Tensor, alpha: float, tau: float, mode: str) -> Tensor:
    """Eq. 1 and 2 filter by filter; "simultaneous" reads the old filters, "sequential" the current ones."""
    result = filters.clone()
    for i, j in pairs.T.tolist():
        source = filters if mode == "simultaneous" else result
        a, b = source[i].flatten(), source[j].flatten()
        if a @ b / (a.norm() * b.norm()) > tau:
            result[i] = alpha * source[i] + (1 - alpha) * source[j]
    return result


@pytest.mark.parametrize("mode", ["simultaneous", "sequential"])
def test_a_pass_equals_the_loop_over_filters(mode: Any) -> None:
    filters = [random_filters(16, seed) for seed in (1, 2)]
    layers = [conv(value) for value in filters]
    inmerge = InMerge(nn.Sequential(*layers), p=0.7, tau=0.5, skip=0, mode=mode, seed=5)
    pairs, counts = draw_pairs([16, 16], 0.7, generator(5, "inmerge"))
    inmerge.step()
    for layer, before, layer_pairs in zip(layers, filters, pairs.split(counts, dim=1), strict=True):
        expected = naive_pass(before, layer_pairs, 0.8, 0.5, mode)
        assert 0 < (expected != before).flatten(1).any(1).sum() < layer_pairs.shape[1]
        torch.testing.assert_close(layer.weight.data, expected)


def mean_update(filters: Tensor, passes: int, **options: Any) -> Tensor:
    """The mean change of the filters, flat, in a pass over them: in 60 equal layers at once, each with draws
    of its own."""
    layers = [conv(filters) for _ in range(60)]
    inmerge = InMerge(nn.Sequential(*layers), skip=0, **options)
    total = torch.zeros_like(filters)
    for _ in range(passes // len(layers)):
        for layer in layers:
            layer.weight.data.copy_(filters)
        inmerge.step()
        total += torch.stack([layer.weight.data - filters for layer in layers]).sum(0)
    return total.flatten(1) / passes


def test_the_mean_update_is_diffusion_on_the_similarity_graph() -> None:
    """E[K'_i] = K_i + p (1 - alpha)/(n - 1) sum over {j: cos > tau} of (K_j - K_i).

    Filter 3 is alone (cosine -1 or 0 with the others). A single update moves an entry by at most
    b = (1 - alpha) max |K_j - K_i| and happens with probability at most p, so the mean over T passes is
    within 5 b sqrt(p / T) of its expectation.
    """
    filters = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, -1.0]]).view(4, 1, 1, 2)
    alpha, tau, p, passes = 0.7, 0.55, 0.5, 6000
    flat = filters.flatten(1)
    edges = ((flat @ flat.T > tau) & ~torch.eye(4, dtype=torch.bool)).float()
    assert edges.sum(1).tolist() == [2, 2, 2, 0]
    drift = p * (1 - alpha) / 3 * (edges @ flat - edges.sum(1, keepdim=True) * flat)
    found = mean_update(filters, passes, alpha=alpha, tau=tau, p=p)
    tolerance = 5 * (1 - alpha) * 0.8 * math.sqrt(p / passes)
    assert (found - drift).abs().max() < tolerance < drift.abs().max() / 3


def whole_numbers() -> nn.Sequential:
    """Filters of small whole numbers: at alpha 1/2, six passes over them are exact in float32."""
    draws = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Conv2d(2, 16, 2, bias=False), nn.Conv2d(16, 9, 1, bias=False))
    for layer in model:
        layer.weight.data = torch.randint(-4, 5, layer.weight.shape, generator=draws).float()
    return model


@pytest.mark.parametrize("options", [{}, {"partner": "similar"}], ids=str)
def test_the_draws_of_a_seed_never_change(options: Any) -> None:
    """A recorded hash, for once: results of earlier versions must be had again, to the bit."""
    model = whole_numbers()
    inmerge = InMerge(model, alpha=0.5, tau=0.2, p=0.5, skip=0, layers="all", seed=11, **options)
    for _ in range(6):
        inmerge.step()
    assert inmerge.merges == {"0": 13, "1": 6}
    assert state_hash(model.state_dict()).startswith("b7dcd3f6d3a07e10")


def changed(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).flatten(1).any(1)


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_random_partners_merge_the_same_filters_elsewhere(p: float) -> None:
    """One pass from the same weights: who moves is the same; where to differs, and is another filter.

    K'_i - K_i = (1 - alpha)(K_j - K_i) gives K_j = K_i + (K'_i - K_i) / (1 - alpha), which must be a row.
    """
    filters, results = random_filters(40), {}
    partners: tuple[Any, ...] = ("similar", "random")
    for partner in partners:
        layer = conv(filters)
        inmerge = InMerge(layer_in_model(layer), p=p, tau=0.5, skip=0, seed=2, partner=partner)
        inmerge.step()
        results[partner] = (changed(filters, layer.weight.data), inmerge.merges, layer.weight.data)
    (moved, merges, similar), (moved_too, merges_too, random) = results["similar"], results["random"]
    assert torch.equal(moved, moved_too)
    assert merges == merges_too == {"0": int(moved.sum())}
    assert 0 < moved.sum() < 40
    assert not torch.equal(similar, random)
    targets = (filters + (random - filters) / 0.2)[moved].flatten(1)
    distances = torch.cdist(targets, filters.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(dim=1).values.max() < 1e-4
    assert (distances.argmin(dim=1) != moved.nonzero().squeeze(1)).all()


def test_the_mean_update_of_random_partners_leads_to_the_mean_of_the_others() -> None:
    """E[K'_i] - K_i = p (1 - alpha) d_i / (n - 1) (m_i - K_i), with d_i similar filters among the others,
    whose mean is m_i.

    Filters and bound are those of the test above, but entries now differ by up to 1.8.
    """
    filters = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, -1.0]]).view(4, 1, 1, 2)
    alpha, tau, p, passes = 0.7, 0.55, 0.5, 6000
    flat = filters.flatten(1)
    mean_of_others = (flat.sum(0) - flat) / 3
    drift = p * (1 - alpha) * torch.tensor([2, 2, 2, 0]).view(4, 1) / 3 * (mean_of_others - flat)
    found = mean_update(filters, passes, alpha=alpha, tau=tau, p=p, partner="random")
    tolerance = 5 * (1 - alpha) * 1.8 * math.sqrt(p / passes)
    assert (found - drift).abs().max() < tolerance < drift.abs().max() / 3


@pytest.mark.parametrize("partner", ["similar", "random"])
def test_reset_starts_both_kinds_of_draws_again(partner: Any) -> None:
    results = []
    layer = conv(random_filters(12))
    inmerge = InMerge(layer_in_model(layer), **ALWAYS, partner=partner)
    for _ in range(2):
        layer.weight.data.copy_(random_filters(12))
        inmerge.reset()
        inmerge.step()
        results.append(layer.weight.data.clone())
    assert torch.equal(*results)


def test_a_zero_filter_has_cosine_zero() -> None:
    """Above tau = -0.5 it merges with its opposite number, at tau = 0 it does not."""
    filters = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    for tau, expected in ((-0.5, [0.2, 0.8]), (0.0, [0.0, 1.0])):
        layer = conv(filters)
        InMerge(layer_in_model(layer), p=1.0, tau=tau, skip=0).step()
        torch.testing.assert_close(layer.weight.data[:, 0, 0, 0], torch.tensor(expected))


def test_restore_norm_keeps_every_norm(small_network: nn.Module) -> None:
    norms = small_network[3].weight.flatten(1).norm(dim=1)
    before = small_network[3].weight.clone()
    InMerge(small_network, **ALWAYS, restore_norm=True).step()
    torch.testing.assert_close(small_network[3].weight.flatten(1).norm(dim=1), norms)
    assert not torch.equal(before, small_network[3].weight)


def test_reset_starts_the_draws_and_the_counts_again(make_network: Callable[[], nn.Module]) -> None:
    model = make_network()
    start = copy.deepcopy(model.state_dict())
    inmerge = InMerge(model, **{**ALWAYS, "p": 0.4})
    inmerge.step()
    merged, counted = weights(model), inmerge.merges
    model.load_state_dict(start)
    inmerge.reset()
    assert set(inmerge.merges.values()) == {0}
    inmerge.step()
    assert same(weights(model), merged)
    assert inmerge.merges == counted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, ("InMerge", "alpha", 1)),
        ({"p": -0.1}, ("'p'", 0, "equal")),
        ({"every": 0}, ("every", "InMerge", "Input")),
        ({"skip": 1.5}, ("skip", "InMerge", "Value")),
        ({"skip": -1}, ("skip", "InMerge", "Value")),
        ({"skip": True}, ("skip", "InMerge", "True")),
        ({"p": True}, ("'p'", "InMerge", "True")),
        ({"seed": 1.5}, ("seed", 1.5, "whole")),
        ({"seed": "a"}, ("seed", "a", "whole")),
        ({"mode": "both"}, ("mode", "InMerge")),
        ({"partner": "none"}, ("partner", "InMerge")),
        ({"skip": 2}, (1, "most")),
    ],
    ids=str,
)
def test_bad_settings_are_sentences(
    small_network: nn.Module, options: Any, sentence: tuple[object, ...]
) -> None:
    with refused(*sentence):
        InMerge(small_network, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("restore_norm", [False, True])
@pytest.mark.parametrize("partner", ["similar", "random"])
def test_a_gpu_makes_the_same_merges(
    make_network: Callable[[], nn.Module], restore_norm: bool, partner: Any
) -> None:
    results = []
    for device in ("cpu", "cuda"):
        model = make_network().to(device)
        inmerge = InMerge(
            model, p=0.7, tau=0.0, skip=0, bias="follow", restore_norm=restore_norm, partner=partner
        )
        inmerge.step()
        results.append((inmerge.merges, [value.cpu() for value in weights(model)]))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)
