"""One experiment has one hash, however it is written; another has another."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.federation.policy import proposal as proposals
from fedmerge.federation.policy.proposal import Proposal, in_words, proposal_hash, read_proposal


def backwards(value):
    """The same JSON with every mapping's keys in the other order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


def leaves(value, path=()):
    """Every value in nested JSON that is a number or a word, by its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    elif value is not None and not isinstance(value, bool):
        yield path, value


def with_value(data, path, value):
    copy = json.loads(json.dumps(data))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def test_order_and_the_way_numbers_are_written_change_nothing(proposal):
    told = proposal.job()
    expected = proposal_hash(proposal)
    assert proposal_hash(read_proposal(backwards(told))) == expected
    text = json.dumps(told)
    for before, after in (("0.05", "5e-2"), ("0.05", "0.050000000000000003"), ("0.02", "2.0e-2")):
        assert before in text
        assert proposal_hash(read_proposal(json.loads(text.replace(before, after)))) == expected
    whole = with_value(told, ("proposal", "plan", "normalisation", "mean", 0), 1)
    point = with_value(told, ("proposal", "plan", "normalisation", "mean", 0), 1.0)
    assert proposal_hash(read_proposal(whole)) == proposal_hash(read_proposal(point)) != expected


def test_every_value_of_a_proposal_counts(proposal):
    """Whatever number or word is another one, the hash is another one, or it is refused."""
    told = proposal.job()
    seen = {proposal_hash(proposal)}
    changed = 0
    for path, value in leaves(told):
        other = (
            value + 1 if isinstance(value, int) else value * 0.5 if isinstance(value, float) else f"{value}x"
        )
        try:
            found = proposal_hash(read_proposal(with_value(told, path, other)))
        except FedMergeError:
            continue
        assert found not in seen or other == value, path
        seen.add(found)
        changed += 1
    assert changed > 20


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"plan": None},
        {"plan": {}},
        {"experiment": "a\x1b[31mb"},
        {"experiment": "x" * 5000},
        {"version": "<script>"},
        {"sums": {"images": 0, "split": "val"}},
        {"sums": {"images": 5, "split": "test"}},
        {"approved": True},
    ],
)
def test_a_proposal_with_anything_else_in_it_is_refused(proposal, change):
    told = {"proposal": proposal.job()["proposal"] | change}
    with pytest.raises(FedMergeError):
        read_proposal(told)


def test_unknown_fields_deep_inside_numbers_that_are_none_and_long_ones_are_refused(proposal):
    told = proposal.job()
    for path, value in (
        (("proposal", "plan", "local", "epoch"), 1),
        (("proposal", "plan", "federation", "hidden"), 1),
        (("proposal", "plan", "model", "options"), {"width": float("nan")}),
        (("proposal", "plan", "model", "options"), {"x" * proposals.LARGEST: 1}),
    ):
        with pytest.raises(FedMergeError):
            read_proposal(with_value(told, path, value))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip  # noqa: E501
def test_whatever_a_server_proposes_is_read_or_refused(data):
    with pytest.raises(FedMergeError):
        read_proposal({"proposal": data})


def test_the_words_say_what_is_asked_and_nothing_of_theirs_steers_a_terminal(proposal):
    words = in_words(proposal)
    assert "2, each 1 epoch (" in words["rounds"]
    assert "small-cnn" in words["network"]
    assert "its update of the model in each round" in words["leaves"]
    strange = proposal.plan.model.model_copy(update={"name": "\x1b[2J", "options": {"a\nb": "\u202e"}})
    odd = Proposal(plan=proposal.plan.model_copy(update={"model": strange}))
    assert re.search(r"[\x00-\x1f\u202e]", "".join(in_words(odd).values())) is None
