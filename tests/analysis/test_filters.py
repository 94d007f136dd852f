from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmerge.analysis.filters import effective_rank, filter_frame, pair_cosines, similarity_frame
from tests.facts import refused


def random_filters(n: int, seed: int, d: int = 12) -> Tensor:
    return torch.randn(n, d // 4, 2, 2, generator=torch.Generator().manual_seed(seed))


def network(*filters: Tensor) -> nn.Module:
    """Convolutions with these filters, each followed by something that is none."""
    model = nn.Sequential()
    for i, values in enumerate(filters):
        model.add_module(f"conv{i}", nn.Conv2d(values.shape[1], len(values), tuple(values.shape[2:])))
        model.add_module(f"norm{i}", nn.BatchNorm2d(len(values)))
        model.get_submodule(f"conv{i}").weight.data = values.clone()
    return model


@given(n=st.integers(1, 8), seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_orthonormal_filters_have_rank_n_at_every_scale(n: int, seed: int, scale: float) -> None:
    orthonormal = torch.linalg.qr(random_filters(8, seed, d=8).flatten(1).double()).Q[:n]
    assert effective_rank(scale * orthonormal.view(n, 2, 2, 2)) == pytest.approx(n)


@given(n=st.integers(1, 8), seed=st.integers(0, 99))
def test_copies_of_one_filter_have_rank_one(n: int, seed: int) -> None:
    scales = torch.linspace(-2, 3, n).view(-1, 1, 1, 1)
    assert effective_rank(scales * random_filters(1, seed)) == pytest.approx(1, abs=1e-4)


@given(n=st.integers(1, 9), d=st.sampled_from([4, 8, 12]), seed=st.integers(0, 99))
def test_the_rank_lies_between_one_and_the_smaller_side(n: int, d: int, seed: int) -> None:
    assert 1 - 1e-9 <= effective_rank(random_filters(n, seed, d)) <= min(n, d) + 1e-9


def test_the_rank_of_known_singular_values() -> None:
    """diag(3, 1): p = (3/4, 1/4), entropy 2 log 2 - (3/4) log 3, rank 4 / 3^(3/4) = 1.7547."""
    filters = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    assert effective_rank(filters) == pytest.approx(4 / 3**0.75)
    assert effective_rank(torch.zeros(3, 1, 2, 2)) == 0


@given(n=st.integers(2, 9), seed=st.integers(0, 99))
def test_cosines_are_those_of_each_pair_once(n: int, seed: int) -> None:
    filters = random_filters(n, seed)
    flat = filters.flatten(1).tolist()
    expected = [
        sum(x * y for x, y in zip(flat[i], flat[j], strict=True))
        / (math.hypot(*flat[i]) * math.hypot(*flat[j]))
        for i in range(n)
        for j in range(i + 1, n)
    ]
    assert pair_cosines(filters).tolist() == pytest.approx(expected)


def test_scaled_copies_have_cosine_one_negated_minus_one_and_zero_none() -> None:
    """Filters a, 3 a, -a, 0: pairs (1,2) 1, (1,3) -1, (1,4) 0, (2,3) -1, (2,4) 0, (3,4) 0."""
    a = random_filters(1, 0)
    cosines = pair_cosines(torch.cat([a, 3 * a, -a, 0 * a]))
    torch.testing.assert_close(cosines, torch.tensor([1.0, -1.0, 0.0, -1.0, 0.0, 0.0]).double())
    assert cosines.abs().max() <= 1


def test_the_frame_has_a_row_for_each_convolution_with_pairs() -> None:
    """Copies: rank 1, cosines 1. Three unit axes and the first again: 1 of 6 pairs has 1, the others 0."""
    axes = torch.eye(4)[[0, 1, 2, 0]].view(4, 4, 1, 1)
    copies = random_filters(1, 0).repeat(5, 1, 1, 1)
    frame = filter_frame(network(copies, random_filters(1, 1), axes), tau=0.9)
    assert frame.columns.tolist() == ["layer", "filters", "rank", "mean_cosine", "share"]
    assert frame["layer"].tolist() == ["conv0", "conv2"]
    assert frame["filters"].tolist() == [5, 4]
    assert frame["mean_cosine"].tolist() == pytest.approx([1, 1 / 6])
    assert frame["share"].tolist() == pytest.approx([1, 1 / 6])
    assert frame["rank"].tolist() == pytest.approx([1, effective_rank(axes)], abs=1e-4)


def test_the_share_is_strictly_above_tau() -> None:
    axes = torch.eye(2).view(2, 2, 1, 1)
    assert filter_frame(network(axes), tau=0.0)["share"].tolist() == [0]
    assert filter_frame(network(axes), tau=-0.01)["share"].tolist() == [1]


@given(n=st.integers(2, 20), bins=st.integers(1, 50), seed=st.integers(0, 99))
def test_shares_sum_to_one_over_bins_from_minus_one_to_one(n: int, bins: int, seed: int) -> None:
    a = random_filters(n, seed)
    frame = similarity_frame(network(a, torch.cat([a, a, -a])), bins)
    assert frame.columns.tolist() == ["layer", "low", "high", "share"]
    for _, layer in frame.groupby("layer"):
        assert layer["share"].sum() == pytest.approx(1)
        assert len(layer) == bins
        assert (layer["low"].iloc[0], layer["high"].iloc[-1]) == (-1, 1)
        assert layer["low"].tolist()[1:] == layer["high"].tolist()[:-1]


def test_cosines_fall_into_their_bins() -> None:
    """Directions at 0, 50 and 180 degrees: cosines 0.64, -1 and -0.64; four bins of width 1/2."""
    angles = torch.tensor([0.0, 50.0, 180.0]).deg2rad()
    filters = torch.stack([angles.cos(), angles.sin()], dim=1).view(3, 2, 1, 1)
    frame = similarity_frame(network(filters), bins=4)
    assert frame["share"].tolist() == pytest.approx([2 / 3, 0, 0, 1 / 3])


def test_a_network_without_convolutions_has_empty_frames() -> None:
    assert filter_frame(nn.Linear(2, 2)).empty
    assert similarity_frame(nn.Linear(2, 2)).columns.tolist() == ["layer", "low", "high", "share"]


def test_values_that_are_not_finite_are_a_sentence() -> None:
    broken = random_filters(3, 0)
    broken[1, 0, 0, 0] = torch.nan
    for measure in (effective_rank, pair_cosines):
        with refused("finite"):
            measure(broken)
