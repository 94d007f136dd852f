"""An InMerge that is copied, or whose network lost its weights to others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    draws = torch.Generator().manual_seed(0)
    optimizer.zero_grad()
    cross_entropy(
        model.eval()(torch.randn(4, 1, 6, 6, generator=draws)), torch.tensor([0, 1, 0, 1])
    ).backward()
    optimizer.step()


def attached(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer, InMerge]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, InMerge(model, **ALWAYS).attach(optimizer)


def test_a_loop_that_is_copied_whole_goes_the_same_way(make_network: Callable[[], nn.Module]) -> None:
    """The copy follows the copied optimizer, and neither loop touches the other."""
    loops = [attached(make_network())]
    step(*loops[0][:2])
    loops.append(copy.deepcopy(loops[0]))
    for model, optimizer, _ in loops:
        step(model, optimizer)
        step(model, optimizer)
    ours, theirs = loops
    assert ours[2].merges == theirs[2].merges
    assert ours[2].merges["0"] == 3 * 6  # every filter of three steps
    for one, other in zip(ours[0].state_dict().values(), theirs[0].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_copied_alone_it_leaves_the_loop_as_it_is(make_network: Callable[[], nn.Module]) -> None:
    model, optimizer, inmerge = attached(make_network())
    apart = copy.deepcopy(inmerge)
    step(model, optimizer)
    assert (inmerge.merges["0"], apart.merges["0"]) == (6, 0)


def test_weights_that_the_optimizer_no_longer_has_are_not_passed_over(
    make_network: Callable[[], nn.Module],
) -> None:
    """With assign=True the network has other parameters, which no step of the optimizer changes."""
    model, optimizer, _ = attached(make_network())
    model.load_state_dict(make_network().state_dict(), assign=True)
    with refused("SGD", "0", "3", "load_state_dict"):
        step(model, optimizer)
