"""What is frozen stays as In-Model Merging found it, and the draws of the others with it."""

from __future__ import annotations

import pytest
import torch

from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS, Make, train


@pytest.mark.parametrize("how", ["no gradient", "not in the optimizer"])
def test_a_frozen_convolution_stays_as_it_is(make_network: Make, how: str) -> None:
    model = make_network()
    free = [parameter for parameter in model.parameters() if parameter is not model[0].weight]
    if how == "no gradient":
        model[0].weight.requires_grad_(False)
        free = list(model.parameters())
    before = model[0].weight.clone()
    inmerge = InMerge(model, **ALWAYS, bias="follow").attach(torch.optim.SGD(free, lr=0.1))
    train(model, inmerge._optimizer, range(3))
    assert torch.equal(model[0].weight, before)
    assert inmerge.merges == {"0": 0, "3": 24}


def test_frozen_by_hand_too_and_the_draws_of_the_others_stay(make_network: Make) -> None:
    one, two = make_network(), make_network()
    one[0].weight.requires_grad_(False)
    kept = one[0].weight.clone()
    options = {**ALWAYS, "p": 0.5}
    InMerge(one, **options).step()
    InMerge(two, **options).step()
    assert torch.equal(one[0].weight, kept)
    assert not torch.equal(two[0].weight, kept)
    assert torch.equal(one[3].weight, two[3].weight)


def test_unfrozen_in_the_middle_it_is_merged_from_then_on(make_network: Make) -> None:
    model = make_network()
    model[0].weight.requires_grad_(False)
    inmerge = InMerge(model, **ALWAYS)
    inmerge.step()
    model[0].weight.requires_grad_(True)
    inmerge.step()
    assert inmerge.merges == {"0": 6, "3": 16}


def test_what_follows_is_frozen_part_by_part(make_network: Make) -> None:
    """The first layer's bias is frozen, the second one's batch norm: by its gamma, with its statistics."""
    model = make_network()
    model[1].running_mean.copy_(torch.arange(6.0))
    model[4].running_mean.copy_(torch.arange(8.0))
    model[0].bias.requires_grad_(False)
    model[4].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    InMerge(model, **ALWAYS, bias="follow").step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"0.weight", "1.running_mean", "3.weight", "3.bias"} <= changed
    assert not changed & {"0.bias", "4.weight", "4.bias", "4.running_mean", "4.running_var"}


def test_an_optimizer_without_any_of_the_layers_is_refused(make_network: Make) -> None:
    model = make_network()
    with refused("SGD", 0, 3):
        InMerge(model, **ALWAYS).attach(torch.optim.SGD(model[9].parameters(), lr=0.1))
