from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.training.filters import cosines, draw_pairs


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
