from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.training.filters import cosines, draw_others, draw_pairs, merge_rows


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4), p=st.floats(0, 1), seed=st.integers(0, 99))
def test_pairs_are_distinct_filters_of_one_layer(sizes: list[int], p: float, seed: int) -> None:
    pairs, counts = draw_pairs(sizes, p, torch.Generator().manual_seed(seed))
    assert sum(counts) == pairs.shape[1]
    for size, (i, j) in zip(sizes, pairs.split(counts, dim=1), strict=True):
        assert (i != j).all()
        assert (i.diff() > 0).all()
        assert (torch.cat([i, j]) >= 0).all()
        assert (torch.cat([i, j]) < size).all()


def test_partners_are_uniform_over_the_others() -> None:
    """Of 6,000 trials of filter 0 of 4, each of 3 partners gets 2000 +- 5 standard deviations (36.5)."""
    draws = torch.Generator().manual_seed(0)
    pairs = torch.cat([draw_pairs([4], 1.0, draws)[0] for _ in range(6000)], dim=1)
    counts = torch.bincount(pairs[1][pairs[0] == 0], minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 5 * math.sqrt(6000 * (1 / 3) * (2 / 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cosines_of_known_angles(dtype: torch.dtype) -> None:
    """(3, 4) against itself scaled, its opposite, its normal, (4, 3) and zero: 1, -1, 0, 24/25 and 0."""
    a = torch.tensor([[3.0, 4.0]]).repeat(5, 1).view(5, 1, 2).to(dtype)
    b = torch.tensor([[6.0, 8.0], [-3.0, -4.0], [-4.0, 3.0], [4.0, 3.0], [0.0, 0.0]]).view(5, 1, 2).to(dtype)
    torch.testing.assert_close(cosines(a, b).double(), torch.tensor([1.0, -1.0, 0.0, 0.96, 0.0]).double())


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4), p=st.floats(0, 1), seed=st.integers(0, 99))
def test_drawn_others_are_other_filters_of_the_same_layer(sizes: list[int], p: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    (rows, _), counts = draw_pairs(sizes, p, draws)
    others = draw_others(rows, sizes, counts, draws)
    for size, i, j in zip(sizes, rows.split(counts), others.split(counts), strict=True):
        assert (i != j).all()
        assert ((j >= 0) & (j < size)).all()


def test_drawn_others_are_uniform() -> None:
    """Filter 2 of 4 draws 6,000 times: each of the 3 others gets 2000 +- 5 standard deviations (36.5)."""
    others = draw_others(torch.full((6000,), 2), [4], [6000], torch.Generator().manual_seed(0))
    counts = torch.bincount(others, minlength=4)
    assert counts[2] == 0
    assert (counts[[0, 1, 3]] - 2000).abs().max() < 5 * math.sqrt(6000 * (1 / 3) * (2 / 3))


def test_partners_decide_who_moves_and_targets_where_to() -> None:
    """Filters e1, e1, e2, -e2; filter 0 likes 1, filter 2 does not like 3. Only 0 moves, half way to 3."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    rows, partners, targets = torch.tensor([[0, 2], [1, 3], [3, 0]])
    moved = merge_rows(weight, rows, partners, alpha=0.5, tau=0.5, targets=targets)
    assert moved == 1
    assert weight.tolist() == [[0.5, -0.5], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
