"""One hospital of four is hostile: the run ends as it would without it, and says so."""

import unicodedata

import pytest
from facts import refused

from benchmarks.simulations.hostile_answers import ERRORS, EVALUATE, GREETING, TRAIN
from benchmarks.simulations.hostile_changes import error, say, texts
from benchmarks.simulations.hostile_messages import HONEST, HOSTILE, PHASES, federate, untouched
from fedmerge.federation.messages.text import LONGEST
from fedmerge.models import state_hash

CASES = [
    pytest.param(kind, spoil, id=f"{kind}: {name}")
    for kind, attacks in (("query", GREETING), ("train", TRAIN), ("evaluate", EVALUATE))
    for name, spoil in attacks.items()
]


@pytest.mark.parametrize(("kind", "spoil"), CASES)
def test_a_hostile_answer_is_refused_and_changes_nothing(kind, spoil):
    run = federate(kind=kind, spoil=spoil)
    (failure,) = run.failures
    assert (failure.site, failure.phase, failure.kind) == (HOSTILE, PHASES[kind], "refused")
    assert (failure.attempt, failure.then) == (1, "left out")
    assert_plain(failure.reason)
    assert untouched(kind, run)


def assert_plain(reason):
    """One line of bounded length, with nothing in it that steers what shows it."""
    assert 0 < len(reason) <= LONGEST
    assert all(unicodedata.category(letter)[0] != "C" for letter in reason)


@pytest.mark.parametrize("spoil", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("kind", ["query", "train"])
def test_a_reason_is_one_plain_line(kind, spoil):
    run = federate(kind=kind, spoil=spoil)
    (failure,) = run.failures
    assert (failure.site, failure.phase, failure.kind) == (HOSTILE, PHASES[kind], "error")
    assert_plain(failure.reason)
    assert untouched(kind, run)


def test_a_hospital_that_says_it_is_late_is_late():
    run = federate(kind="train", spoil=error("later", code=101))
    assert [(f.site, f.kind) for f in run.failures] == [(HOSTILE, "late")]


@pytest.mark.parametrize(("rules", "then"), [({"retries": 2}, "asked again"), ({}, "asked again")])
def test_a_refused_answer_is_asked_for_again_where_the_run_says_so(rules, then):
    run = federate(kind="train", spoil=TRAIN["nan"], on_failure="retry", **rules)
    assert [f.then for f in run.failures] == [then] * rules.get("retries", 1) + ["left out"]
    assert untouched("train", run)


def test_it_ends_the_run_only_where_the_user_wants_that():
    with refused("hospital", HOSTILE, "1"):
        federate(kind="train", spoil=say(accuracy=float("nan")), on_failure="abort")
    with refused("3", "4", "hospitals"):
        federate(kind="query", spoil=GREETING["no class"], quorum=4)


@pytest.mark.parametrize("name", ["=cmd", "omega"])
def test_where_nobody_vouches_for_a_node_its_greeting_is_refused_all_the_same(name):
    """A hospital that is wanted does not come, and a node calls itself something else."""
    run = federate(kind="query", spoil=texts(name=name), vouched=False)
    (failure,) = run.failures
    assert (failure.site, failure.phase) == (HOSTILE, "greeting")
    assert state_hash(run.state) == state_hash(federate(HONEST).state)


def test_two_of_one_name_are_an_error_only_where_nobody_vouches_for_either():
    spoil = texts(name="alpha")
    with refused("alpha", "hospitals", "themselves"):
        federate(kind="query", spoil=spoil, vouched=False)
    (failure,) = federate(kind="query", spoil=spoil).failures
    assert "admitted as 'delta' calls itself 'alpha'" in failure.reason


def test_the_suppressed_counts_of_a_policy_are_taken():
    """A count below 9 is told as 0: the sum is no more than the images, and it is said so."""

    def spoil(reply):
        reply.content["metrics"]["class-counts"] = [0, 9, 0]
        reply.content["metrics"]["suppressed-below"] = 9

    assert federate(kind="query", spoil=spoil).failures == []


def test_numbers_that_a_policy_keeps_back_are_not_missed():
    def spoil(reply):
        for name in ("seconds", "steps", "merges"):
            del reply.content["metrics"][name]

    run = federate(kind="train", spoil=spoil)
    assert run.failures == []
    assert state_hash(run.state) == state_hash(federate().state)
