"""Too few hospitals, garbage and lies make a void round, and no broken model."""

import numpy as np
from facts import refused

from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.secure.rounds import SecureHospital
from fedmerge.models import state_hash
from tests.federation.secure.rounds.serving import ward


def test_too_few_make_a_void_round_and_the_run_goes_on(secure, cohort):
    """Of three, one is lost in round 1: void, with its reason; round 2 is whole."""
    server = ward(secure, cohort.training)
    start = server.start()
    server.grid.lost["query.secure_masked"] = [server.clients[1].node_id]
    first = server.strategy.round(server.grid, 1, start)
    assert state_hash(first) == state_hash(start)
    server.grid.lost.clear()
    second = server.strategy.round(server.grid, 2, first)
    assert state_hash(second) != state_hash(start)
    void = [(f.round, f.phase, f.site, f.then) for f in server.strategy.failures if f.kind == "void"]
    assert void == [(1, "sum", "everyone", "round void"), (1, "validate", "everyone", "round void")]
    assert "2 of 3 hospitals gave masked numbers, and a sum takes 3" in server.strategy.failures[1].reason


def test_abort_ends_the_run_with_a_void_round(secure, cohort, monkeypatch):
    """A sum that is nonsense, though every hospital answered."""
    changed = secure.model_copy(
        update={"federation": FederationOptions(secure_aggregation=True, on_failure="abort")}
    )
    server = ward(changed, cohort.training)
    spoil(monkeypatch, "beta")
    with refused("round", "1", "on_failure"):
        server.rounds(server.start())


def spoil(monkeypatch, name, rng=None):
    """The masked numbers of one hospital become uniform garbage."""
    masked, rng = SecureHospital.masked, rng or np.random.default_rng(0)

    def garbage(self, message):
        reply_message = masked(self, message)
        if self.name == name:
            record = reply_message.content.array_records["arrays"]
            numbers = rng.integers(-(2**63), 2**63, record["numbers"].shape)
            record["numbers"] = type(record["numbers"])(numbers)
        return reply_message

    monkeypatch.setattr(SecureHospital, "masked", garbage)


def test_garbage_makes_a_void_round_not_a_broken_model(secure, cohort, monkeypatch):
    server = ward(secure, cohort.sites)
    spoil(monkeypatch, "beta")
    start = server.start()
    found = server.strategy.round(server.grid, 1, start)
    assert state_hash(found) == state_hash(start)
    assert [f.phase for f in server.strategy.failures] == ["sum", "validate"]


def test_a_hospital_that_counts_other_images_than_it_has_makes_a_void_round(secure, cohort, monkeypatch):
    """It says that it has 60,000,000,000 images, so that the mean would be its own."""
    from fedmerge.federation.hospital import hospital

    encode = hospital.encode_means

    def lie(images, values):
        lie.calls += 1
        return encode(images * (10**9 if lie.calls == 2 else 1), values)

    lie.calls = 0
    monkeypatch.setattr(hospital, "encode_means", lie)
    server = ward(secure, cohort.sites)
    start = server.start()
    assert state_hash(server.strategy.round(server.grid, 1, start)) == state_hash(start)
    assert "images, but its hospitals said that they have" in server.strategy.failures[0].reason


def test_a_score_that_cannot_be_summed_stops_nothing(secure, cohort):
    """Else a run whose last scores were asked for with one hospital more could never end."""
    server = ward(secure, cohort.training)
    server.grid.lost["query.secure_masked"] = [server.clients[1].node_id]
    numbers = server.numbers(server.start())
    assert set(numbers) == {"accuracy", "balanced_accuracy", "loss", "temperature"}
    assert all(np.isnan(value) for value in numbers.values())
    assert [(f.phase, f.kind) for f in server.strategy.failures][-1] == ("score", "void")
    with refused("2", "3", "hospitals"):
        server.score(server.start())
