from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fedmerge.merging.checks import check_finite, summation_order
from fedmerge.merging.parents import Parents
from tests.facts import refused


def net(*last: float) -> nn.Module:
    """Two layers, the first of 5,000 weights; the second's bias is ``last``."""
    module = nn.Sequential(nn.Linear(2500, 2), nn.Linear(2, len(last)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
        module[1].bias.copy_(torch.tensor(last))
    return module


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(bad: float) -> None:
    parents = Parents.of([net(1.0), net(bad)], names=["north", "south"])
    with refused("south", "NaN", "1.bias", "4 entries"):
        check_finite(parents)


def test_finite_entries_whose_sum_overflows_pass() -> None:
    assert torch.tensor([3e38, 3e38]).sum().isinf()
    check_finite(Parents.of([net(3e38, 3e38)]))


def test_the_order_follows_the_content() -> None:
    """However permuted, the models come in one sequence; equal ones are ordered by weight."""
    nets = [net(1.0), net(2.0), net(2.0), net(3.0)]
    with torch.no_grad():
        nets[2][0].weight[0, 0] = 7.0  # differs from nets[1] in one weight alone
    weights = {id(n): float(i) for i, n in enumerate(nets)}
    sequences = set()
    for permuted in itertools.permutations([*nets, nets[0]]):
        order = summation_order(Parents.of(permuted), [weights[id(n)] for n in permuted])
        assert sorted(order) == [0, 1, 2, 3, 4]
        sequences.add(tuple(id(permuted[i]) for i in order))
    assert len(sequences) == 1
    twins = Parents.of([net(1.0), net(1.0), net(1.0)])
    assert summation_order(twins, [0.3, 0.1, 0.2]) == [1, 2, 0]


@pytest.mark.parametrize(("biases", "expected"), [([3.0, 1.0, 2.0], [1, 1, 1]), ([3.0, 1.0, 3.0], [2, 1, 2])])
def test_models_that_differ_in_something_small_are_not_read_whole(
    biases: list[float], expected: list[int]
) -> None:
    """Each has 5,000 weights and one bias: three biases settle three models, twins are read once more."""
    loads = [0, 0, 0]

    def load(index: int) -> dict[str, torch.Tensor]:
        loads[index] += 1
        return {"weight": torch.ones(1, 5000), "bias": torch.tensor([biases[index]])}

    summation_order(Parents(tuple("abc"), load, nn.Linear(5000, 1)))
    assert loads == expected
