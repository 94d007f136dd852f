from __future__ import annotations

import itertools

import pytest
import torch
from facts import refused

from fedmerge.merging.matching.assignment import pair
from fedmerge.models.graph import Group

STRAND = torch.tensor([0, 0, 1, 0, 0, 1])
BLOCK = torch.tensor([0, 0, 0, 1, 1, 1])


def cheapest(cost: torch.Tensor, allowed: list[tuple[int, ...]]) -> list[int]:
    return list(min(allowed, key=lambda p: float(cost[torch.arange(len(p)), torch.tensor(p)].sum())))


def costs(seed: int) -> torch.Tensor:
    return torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_of_all_permutations(seed: int) -> None:
    assert pair(costs(seed)).tolist() == cheapest(costs(seed), list(itertools.permutations(range(6))))


@pytest.mark.parametrize("seed", range(4))
def test_neurons_stay_in_their_strand(seed: int) -> None:
    allowed = [
        p for p in itertools.permutations(range(6)) if all(STRAND[i] == STRAND[j] for i, j in enumerate(p))
    ]
    assert len(allowed) == 24 * 2
    assert pair(costs(seed), Group("", 6, STRAND, None)).tolist() == cheapest(costs(seed), allowed)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_move_whole(seed: int) -> None:
    """Two blocks of three neurons in two strands: 2 orders of the blocks, times 2 inside each, are 8."""
    allowed = [
        p
        for p in itertools.permutations(range(6))
        if all(STRAND[i] == STRAND[j] for i, j in enumerate(p))
        and len({int(BLOCK[j]) for j in p[:3]}) == 1
        and len({int(BLOCK[j]) for j in p[3:]}) == 1
    ]
    assert len(allowed) == 8
    assert pair(costs(seed), Group("", 6, STRAND, BLOCK)).tolist() == cheapest(costs(seed), allowed)


def test_costs_that_are_not_finite_are_refused():
    with refused("NaN"):
        pair(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
