"""Rounds with a part of the model that each hospital keeps: told, restored, and missed where it is lost."""

import pytest

from fedmerge.federation.plan.personal import personal_entries
from fedmerge.models import build, state_hash
from tests.federation.rounds_by_hand import both, having, mean, serve, trained


@pytest.mark.parametrize("personal", ["norms", "head"])
def test_a_personal_part_begins_each_round_as_its_hospital_left_it(plan, cohort, personal):
    keys = personal_entries(plan.model, personal)
    state, own = build(plan.model, plan.seed).state_dict(), {site.name: {} for site in cohort.training}
    for round in (1, 2):
        states = [trained(plan, site, state | own[site.name], round) for site in cohort.training]
        own = {
            site.name: {key: s[key] for key in keys} for site, s in zip(cohort.training, states, strict=True)
        }
        state = mean(states, cohort.training)
    merged, tuned = serve(having(plan, personal=personal), cohort, both)
    assert state_hash(merged) == state_hash(state)
    for site in cohort.training:
        expected = trained(plan, site, state | own[site.name], 3)
        assert state_hash(tuned[site.name]) == state_hash(expected)
    assert state_hash(merged) != state_hash(serve(plan, cohort, lambda server: server.rounds(server.start())))


def test_memories_are_told_and_restored_by_name(plan, cohort):
    """A second server with the first one's memories fine-tunes as the first does, without them not."""
    changed = having(plan, personal="norms")

    def first(server):
        state = server.rounds(server.start())
        return state, server.memories(), {name: tuned for name, tuned, _ in server.fine_tune(state)}

    state, memories, expected = serve(changed, cohort, first)
    assert list(memories) == [site.name for site in cohort.training]
    for kept, same in ((memories, True), ({}, False)):

        def second(server, kept=kept):
            server.restore(kept)
            return {name: tuned for name, tuned, _ in server.fine_tune(state)}

        found = serve(changed, cohort, second)
        assert all((state_hash(found[name]) == state_hash(expected[name])) is same for name in found)


def test_without_a_personal_part_nothing_is_asked_about_memory(plan, cohort):
    assert serve(plan, cohort, lambda server: server.memories()) == {}


def test_a_hospital_that_lost_its_part_begins_anew_and_that_is_recorded(plan, cohort):
    """Its memory is taken away after the rounds, as a new process would."""

    def programme(server):
        state = server.rounds(server.start())
        memories = server.memories()
        server.restore({name: kept for name, kept in memories.items() if name != "beta"})
        tuned = {name: new for name, new, _ in server.fine_tune(state)}
        return state, tuned, server.strategy.failures, server.strategy.history

    state, tuned, failures, history = serve(having(plan, personal="norms"), cohort, programme)
    assert [(f.round, f.phase, f.site, f.then) for f in failures] == [(3, "fine-tune", "beta", "began anew")]
    assert "as it was after round 2" in failures[0].reason
    assert state_hash(tuned["beta"]) == state_hash(trained(plan, cohort["beta"], state, 3))
    assert not any("forgot" in row or row["phase"] == "memory" for row in history)
