"""Rounds under central privacy and secure aggregation are the same mean, noised or to rounding."""

import pytest
import torch

from fedmerge.federation import FederationOptions
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.federation.messages.reading import job_of
from fedmerge.federation.plan.participation import Participation, participants
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.privacy.accounting import epsilon
from fedmerge.federation.privacy.central import private_mean
from fedmerge.federation.privacy.noise import from_the_seed
from fedmerge.models import build, state_hash
from tests.federation.rounds_by_hand import protected, serve, trained


@pytest.mark.parametrize("simulate", [True, False])
def test_central_privacy_is_the_private_mean_and_tells_what_each_hospital_spent(plan, cohort, simulate):
    """Two of three hospitals a round: each row's epsilon is that of its own number of rounds.

    Simulated noise can be drawn again, so that the model can be compared; then there is no epsilon.
    """
    options = CentralPrivacy(clip=0.5, noise=2.0, simulate=simulate)
    some = Participation(number=2)
    changed = protected(plan, privacy=options.model_dump(), participation={"number": 2})
    changed = changed.model_copy(update={"rounds": 3})
    clients = ClientRegistry(Client(0, site.name, 0, 0, ()) for site in cohort.training)
    state, taken = build(changed.model, plan.seed).state_dict(), dict.fromkeys("abg", 0)
    expected = []
    for round in (1, 2, 3):
        names = [member.name for member in participants(clients, some, plan.seed, round)]
        states = [trained(changed, cohort[name], state, round) for name in names]
        state = private_mean(state, states, options, 2, 0.5, from_the_seed(plan.seed, "noise", round)).state
        for name in names:
            taken[name[0]] += 1
        expected.append({name: count for name, count in taken.items() if count})

    def programme(server):
        return server.rounds(server.start()), server.strategy.history, list(server.fine_tune(state))

    merged, history, tuned = serve(changed, cohort, programme)
    assert (state_hash(merged) == state_hash(state)) is simulate
    assert tuned == []
    if simulate:
        assert not any("epsilon" in row or row["phase"] == "aggregate" for row in history)
        return
    for round, counts in enumerate(expected, 1):
        rows = [row for row in history if (row["round"], row["phase"]) == (round, "aggregate")]
        assert {row["site"][0]: row["epsilon"] for row in rows} == {
            name: epsilon(options, count) for name, count in counts.items()
        }
        assert {row["site"][0]: row["releases"] for row in rows} == counts
        assert {row["delta"] for row in rows} == {1e-5}


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_secure_aggregation_gives_the_mean_of_the_same_rounds(plan, cohort, norm):
    """To rounding of 2^-31 a round, which training may enlarge a little."""
    secure = protected(plan, secure_aggregation=True)
    secure = secure.model_copy(
        update={"model": plan.model.model_copy(update={"options": {"width": 4, "norm": norm}})}
    )
    plain = secure.model_copy(update={"federation": FederationOptions()})
    merged, open_ = (serve(p, cohort, lambda server: server.rounds(server.start())) for p in (secure, plain))
    for key, value in open_.items():
        if value.is_floating_point():
            torch.testing.assert_close(merged[key], value, rtol=1e-4, atol=1e-6)


def test_a_round_that_loses_a_hospital_between_the_exchanges_leaves_the_model_as_it_was(
    plan, cohort, monkeypatch
):
    """Beta answers nothing in the second exchange of round 1; the sum of round 2 is whole."""
    secure = protected(plan, secure_aggregation=True)
    answer = SecureHospital.masked

    def vanishing(self, message):
        if self.name == "beta" and job_of(message)["label"].endswith("train 1"):
            raise RuntimeError("the power went")
        return answer(self, message)

    monkeypatch.setattr(SecureHospital, "masked", vanishing)
    after = {}

    def programme(server):
        state = server.start()
        for round in (1, 2):
            after[round - 1] = state_hash(state)
            state = server.strategy.round(server.grid, round, state)
        after[2] = state_hash(state)
        return server.strategy.failures

    failures = serve(secure, cohort, programme)
    assert after[0] == after[1] != after[2]
    assert [(f.round, f.phase, f.site, f.then) for f in failures] == [
        (1, "sum", "beta", "left out"),
        (1, "sum", "everyone", "round void"),
    ]
