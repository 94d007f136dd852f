"""In-Model Merging saved and loaded: it goes on with the same draws, or refuses another state."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from fedmerge.training.inmerge import InMerge
from tests.facts import refused
from tests.training.inmerge_loops import ALWAYS, Make, same, sgd, train, weights


@pytest.mark.parametrize("partner", ["similar", "random"])
@pytest.mark.parametrize("every", [1, 2])
def test_saved_and_loaded_in_the_middle_it_ends_with_the_same_bits(
    make_network: Make, every: int, partner: Any
) -> None:
    """Five steps at once, and three, a file, and two: with every second step, the file falls in between."""
    options: dict[str, Any] = {
        "p": 0.5,
        "tau": -1.01,
        "skip": 0,
        "every": every,
        "partner": partner,
        "seed": 4,
    }
    whole = make_network()
    optimizer = sgd(whole)
    unbroken = InMerge(whole, **options).attach(optimizer)
    train(whole, optimizer, range(5))

    model = make_network()
    optimizer = sgd(model)
    inmerge = InMerge(model, **options).attach(optimizer)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, inmerge)], file)
    file.seek(0)
    again = make_network()
    optimizer = sgd(again)
    goes_on = InMerge(again, **options | {"seed": 99}).attach(optimizer)
    for part, state in zip((again, optimizer, goes_on), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(again, optimizer, range(3, 5))
    assert same(weights(again), weights(whole))
    assert goes_on.merges == unbroken.merges
    assert goes_on.seed == 4
    assert_same_draws(goes_on, unbroken)


def assert_same_draws(one: InMerge, other: InMerge) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert {key: a[key] for key in ("options", "seed", "steps", "merges")} == {
        key: b[key] for key in ("options", "seed", "steps", "merges")
    }
    assert torch.equal(a["generator"], b["generator"])
    assert torch.equal(a["partners"], b["partners"])


def test_without_its_state_a_resumed_loop_would_draw_anew(make_network: Make) -> None:
    one, two = InMerge(make_network(), p=0.5, tau=-1.01, skip=0), InMerge(make_network(), p=0.5, skip=0)
    one.step()
    assert not torch.equal(one.state_dict()["generator"], two.state_dict()["generator"])


def test_a_state_is_a_copy(make_network: Make) -> None:
    inmerge = InMerge(make_network(), **ALWAYS)
    state = inmerge.state_dict()
    before = copy.deepcopy(state)
    inmerge.step()
    assert state["merges"] == before["merges"] == {"0": 0, "3": 0}
    assert torch.equal(state["generator"], before["generator"])
    twin = InMerge(make_network(), **ALWAYS)
    twin.load_state_dict(state)
    twin.step()
    assert state["merges"] == {"0": 0, "3": 0}


def test_a_state_goes_from_a_plain_network_to_a_wrapped_one(make_network: Make) -> None:
    inmerge = InMerge(make_network(), **ALWAYS)
    inmerge.step()
    wrapped = InMerge(nn.DataParallel(make_network()), **ALWAYS)
    wrapped.load_state_dict(inmerge.state_dict())
    assert_same_draws(wrapped, inmerge)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("partners"), ("InMerge", "options", "seed")),
        (lambda state: state.update(more=1), ("InMerge", "options", "seed")),
        (lambda state: state["options"].update(alpha=0.5), ("0.5", "0.8", "saved")),
        (lambda state: state["options"].update(beta=0.5), ("beta", "InMerge")),
        (lambda state: state["merges"].pop("3"), (0, 3, "layers", "merges")),
        (
            lambda state: state.update(generator=torch.zeros(3, dtype=torch.uint8)),
            ("generator", "InMerge", "torch.Generator"),
        ),
        (lambda state: state.update(partners=None), ("partners", "InMerge", "torch.Generator")),
    ],
)
def test_another_state_is_refused_and_nothing_is_changed(
    make_network: Make, change: Any, sentence: tuple[object, ...]
) -> None:
    saved = InMerge(make_network(), **ALWAYS)
    saved.step()
    state = saved.state_dict()
    change(state)
    inmerge = InMerge(make_network(), **ALWAYS, seed=7)
    with refused(*sentence):
        inmerge.load_state_dict(state)
    assert_same_draws(inmerge, InMerge(make_network(), **ALWAYS, seed=7))
