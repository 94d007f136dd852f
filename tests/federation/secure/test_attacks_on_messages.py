"""What a server passes on changed, in another order or not at all; and hospitals that lie."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from facts import refused
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.privacy.masked import NoSum
from fedmerge.federation.server.secure_round import check_offer
from tests.federation.secure.steps import LABEL, masked, share, up_to_masked


def test_shares_that_were_changed_swapped_or_left_out(net, adverts):
    them = net(4)
    shares = share(them, "abcd", adverts)
    right = {other: shares[other].shares["a"] for other in "bcd"}
    flipped = format(int(right["b"][0], 16) ^ 1, "x") + right["b"][1:]
    for wrong in (
        right | {"b": flipped},
        right | {"b": right["c"]},
        right | {"b": shares["a"].shares["b"]},
        {"c": right["c"], "d": right["d"]},
    ):
        with refused("b", "a", "shares"):
            them.put("a", "masked", label=LABEL, parties=list("abcd"), shares=wrong)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("ab", ("4", "end", "2")),
        ("abc", ("4", "end", "3")),
        ("bcde", ("a", "participants")),
        ("abcz", ("participants",)),
        ("abca", ("participants",)),
        ("", ("participants",)),
    ],
)
def test_lists_that_are_too_small_or_strange(net, adverts, names, sentence):
    them = net(5)
    shares = share(them, "abcde", adverts)
    ask = {"label": LABEL, "parties": list(names), "shares": {}}
    with refused(*sentence):
        them.put("a", "masked", **ask)
    masked(them, "a", shares, "abcde")
    for action, more in (("confirm", {}), ("unmask", {"confirmed": {}})):
        with refused(*sentence):
            them.put("a", action, label=LABEL, survivors=list(names), **more)


def test_steps_in_another_order(net, adverts):
    """Nothing is unmasked that was not masked, and nothing masked before keys are shared."""
    them = net(3)
    for action, job in (
        ("masked", {"parties": list("abc"), "shares": {}}),
        ("confirm", {"survivors": list("abc")}),
        ("unmask", {"survivors": list("abc"), "confirmed": {}}),
    ):
        with refused("a", "no numbers"):
            them.put("a", action, label=LABEL, **job)
        them.offer("a")
        with refused("run train 1", "participants"):
            them.put("a", action, label=LABEL, **job)
        with refused("other", "numbers"):
            them.put("a", action, label="other", **job)
        them.restart("a")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


FIELDS = ("label", "adverts", "parties", "shares", "survivors", "confirmed")


@given(
    action=st.sampled_from(["shares", "masked", "confirm", "unmask"]),
    job=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JUNK, max_size=6),
)
def test_any_request_is_answered_or_refused_in_a_sentence(net, action, job):
    them = net(3)
    them.offer()
    with pytest.raises(FedMergeError):
        them.put("a", action, **(job | {"label": job.get("label", LABEL)}))


def test_garbage_instead_of_masked_numbers_is_no_sum(net):
    """Uniform 64-bit numbers: of 20, one at least is outside ±2^62 but for a chance of 1e-6."""
    them = net(4)
    rng = np.random.default_rng(0)
    garbage = rng.integers(-(2**63), 2**63, 20)
    them.changed["masked", "b"] = lambda said, arrays: ({}, {"numbers": torch.from_numpy(garbage)})
    with refused("range", "honest", "answers", kind=NoSum):
        them.total(them.offer())


def test_wrong_shares_of_one_hospital_do_not_matter_where_others_are_enough(net):
    """And are no sum where they are not: of three hospitals, all three are needed."""

    def lie(said, arrays):
        own = {name: bytes(32).hex() for name in said["own"]}
        return {"own": json.dumps(own), "pair": json.dumps(said["pair"])}, None

    five, three = net(5), net(3)
    five.changed["unmask", "b"] = three.changed["unmask", "b"] = lie
    assert np.array_equal(five.total(five.offer())[1], five.plain("abcde"))
    with refused("a", "shares", "mask", kind=NoSum):
        three.total(three.offer())


def test_a_commitment_to_another_secret_is_no_sum(net):
    them = net(4)
    them.changed["shares", "c"] = lambda said, arrays: (
        {"shares": json.dumps(said["shares"]), "commitment": "0" * 64},
        None,
    )
    with refused("c", "shares", "mask", kind=NoSum):
        them.total(them.offer())


JUNK_ANSWERS = [
    ({}, None),
    ({"shares": "[]", "commitment": "0" * 64}, None),
    ({"own": "{", "pair": "{}"}, None),
    ({"own": "{}", "pair": "{}"}, None),
    ({}, {"numbers": torch.zeros(3, dtype=torch.int64)}),
    ({}, {"numbers": torch.zeros(20)}),
    ({"signature": "0" * 1000}, {"x": torch.zeros(1)}),
]


@pytest.mark.parametrize("action", ["shares", "masked", "unmask"])
@pytest.mark.parametrize("junk", JUNK_ANSWERS)
def test_an_answer_of_another_form_is_that_of_a_hospital_that_is_lost(net, action, junk):
    them = net(5)
    them.changed[action, "b"] = lambda said, arrays: junk
    names, total = them.total(them.offer())
    assert np.array_equal(total, them.plain(names))
    assert names == (list("abcde") if action == "unmask" else list("acde"))


def test_an_offer_is_signed_with_the_key_that_was_admitted(deployed, tmp_path):
    them = deployed(3)
    (answer,) = them.offer("a")
    admitted = {"a": read_public(tmp_path / "node-a" / "node.pub")}
    assert check_offer(LABEL, admitted)(answer) is None
    make_node_key(tmp_path)
    other = {"a": read_public(tmp_path / "node.pub")}
    assert "not signed with the key that it was admitted with" in check_offer(LABEL, other)(answer)
    assert "keys of 'a' for 'run train 1'" in check_offer("run train 2", {})(answer)


def test_masked_numbers_say_nothing_without_the_others(net, adverts):
    """No word of what a hospital sends is a word of its numbers, nor are two sums' masks the same."""
    them = net(3, words=2000)
    first = up_to_masked(them, "abc", adverts)
    them = net(3, words=2000)
    second = up_to_masked(them, "abc", adverts)
    for name in "abc":
        sent = [answers[name] for answers in (first, second)]
        assert not np.any(sent[0] == them.numbers[name])
        assert not np.any(sent[0] == sent[1])
