"""To which optimizer In-Model Merging is attached, and after which of its steps a pass comes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedmerge.errors import FedMergeError
from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS, Make, same, sgd, train, weights


def test_detached_and_attached_again_it_goes_on(make_network: Make) -> None:
    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    train(model, optimizer, range(2))
    inmerge.detach()
    inmerge.detach()
    train(model, optimizer, range(2))
    inmerge.attach(optimizer).attach(optimizer)
    train(model, optimizer, range(1))
    assert inmerge.merges == {"0": 18, "3": 24}
    inmerge.detach()
    assert not optimizer._optimizer_step_post_hooks


def test_two_optimizers_have_an_inmerge_each(make_network: Make) -> None:
    """Each merges the layer that its optimizer trains, and only after that one's steps."""
    model = make_network()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:3], model[3:]))
    of_first, of_second = (InMerge(model, **ALWAYS).attach(each) for each in (first, second))
    train(model, first, range(2))
    train(model, second, range(1))
    assert of_first.merges == {"0": 12, "3": 0}
    assert of_second.merges == {"0": 0, "3": 8}


def test_a_refused_optimizer_leaves_the_former(make_network: Make) -> None:
    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **ALWAYS).attach(optimizer)
    for other in (object(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)):
        with pytest.raises(FedMergeError, match=r"cannot follow object|nothing to merge"):
            inmerge.attach(other)  # type: ignore[arg-type]
    train(model, optimizer, range(1))
    assert inmerge.merges["0"] == 6


def test_an_optimizer_that_only_wraps_another_is_refused(make_network: Make) -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner, self.param_groups = inner, inner.param_groups

    with refused("Wrapper", "InMerge"):
        InMerge(model := make_network(), **ALWAYS).attach(Wrapper(sgd(model)))


@pytest.mark.parametrize(("every", "passes"), [(1, 5), (2, 2)])
def test_attached_it_merges_after_steps_of_a_plain_loop(
    small_network: nn.Module, every: int, passes: int
) -> None:
    """With p = 1 and no threshold each pass merges all 6 and all 8 filters; five steps hold ``passes``."""
    optimizer = torch.optim.SGD(small_network.parameters(), lr=0.1, momentum=0.9)
    inmerge = InMerge(small_network, **ALWAYS, every=every).attach(optimizer)
    train(small_network, optimizer, range(5))
    assert inmerge.merges == {"0": 6 * passes, "3": 8 * passes}
    inmerge.detach()
    train(small_network, optimizer, range(2))
    assert inmerge.merges == {"0": 6 * passes, "3": 8 * passes}


def test_attached_it_is_a_step_then_a_pass_on_the_parameters_the_optimizer_holds(
    make_network: Make,
) -> None:
    one, two = make_network(), make_network()
    addresses = [parameter.data_ptr() for parameter in one.parameters()]
    first = torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
    second = torch.optim.SGD(two.parameters(), lr=0.1, momentum=0.9)
    InMerge(one, **ALWAYS, seed=2).attach(first)
    by_hand = InMerge(two, **ALWAYS, seed=2)
    train(one, first, range(1))
    train(two, second, range(1))
    by_hand.step()
    assert same(weights(one), weights(two))
    assert [parameter.data_ptr() for parameter in one.parameters()] == addresses


def test_attaching_anew_leaves_the_former_optimizer(small_network: nn.Module) -> None:
    old = torch.optim.SGD(small_network.parameters(), lr=0.1)
    new = torch.optim.SGD(small_network.parameters(), lr=0.1)
    inmerge = InMerge(small_network, **ALWAYS).attach(old).attach(new)
    train(small_network, old, range(1))
    assert set(inmerge.merges.values()) == {0}
