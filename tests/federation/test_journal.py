"""Rounds that are cut off anywhere go on, with the same bits; what is damaged is found and done again."""

import errno
from dataclasses import replace

import pytest
import torch
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions, server_app, simulate
from fedmerge.federation.server.journal import Position, RoundJournal
from fedmerge.models import state_hash, weights
from fedmerge.storage.files import DiskError
from tests.interrupted import Died

ROUNDS = 4


@pytest.fixture
def four(plan):
    return plan.model_copy(update={"rounds": ROUNDS})


def train(plan, cohort, journal, dies_in=None):
    """The rounds over a journal: (hash of the model, history without seconds, failures)."""
    found = []

    def programme(server):
        step = server.strategy.round

        def round(grid, number, state):
            if number == dies_in:
                raise Died
            return step(grid, number, state)

        server.strategy.round = round
        state = server.rounds(server.start(), journal)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in server.strategy.history]
        found.append((state_hash(state), rows, server.strategy.failures))

    try:
        simulate(server_app(plan, programme), cohort.training)
    except Died:
        return None
    return found[0]


FAULTY = {
    "faults": [
        {"kind": kind, "site": ["alpha", "beta"], "probability": 0.3, "attempts": 1}
        for kind in ("crash", "hang", "nan", "label-flip", "stale")
    ],
    "on_failure": "retry",
    "deadline": 60,
    "aggregate": {"method": "norm-clipping"},
}


@pytest.mark.parametrize("rules", [{}, FAULTY])
def test_rounds_cut_off_anywhere_end_with_the_same_bits(four, cohort, tmp_path, rules):
    """Also with hospitals that misbehave: what they do hangs on seed and round, not on what was before."""
    four = four.model_copy(update={"federation": FederationOptions.model_validate(rules)})
    whole = train(four, cohort, None)
    assert bool(whole[2]) == bool(rules)
    for dies_in in range(1, ROUNDS + 1):
        folder = tmp_path / str(dies_in)
        assert train(four, cohort, RoundJournal(folder), dies_in) is None
        kept = sorted(path.name for path in folder.glob("*.json"))
        assert kept == [f"{n:04d}.json" for n in range(1, dies_in)]
        assert train(four, cohort, RoundJournal(folder)) == whole


def test_rounds_that_are_done_are_not_done_again(four, cohort, tmp_path):
    whole = train(four, cohort, RoundJournal(tmp_path))
    assert train(four, cohort, RoundJournal(tmp_path), dies_in=1) == whole


def test_only_the_last_weights_are_kept(four, cohort, tmp_path):
    train(four, cohort, RoundJournal(tmp_path, keep=3))
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        f"{n:04d}-global.safetensors" for n in (2, 3, 4)
    ]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink()])
def test_a_damaged_last_round_is_done_again_and_said(four, cohort, tmp_path, damage):
    whole = train(four, cohort, RoundJournal(tmp_path))
    damage(tmp_path / "0004-global.safetensors")
    journal = RoundJournal(tmp_path)
    assert journal.newest().round == 3
    (sentence,) = journal.damaged
    assert "0004-global.safetensors' is " in sentence
    assert sentence.endswith("The rounds go on after round 3.")
    assert train(four, cohort, RoundJournal(tmp_path)) == whole
    assert RoundJournal(tmp_path).newest().round == 4


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_manifest_is_found(four, cohort, tmp_path, damage):
    whole = train(four, cohort, RoundJournal(tmp_path))
    damage(tmp_path / "0004.json")
    journal = RoundJournal(tmp_path)
    assert train(four, cohort, journal) == whole
    assert "0004.json' is damaged" in journal.damaged[0]


def test_where_no_round_is_whole_they_begin_anew(four, cohort, tmp_path):
    whole = train(four, cohort, RoundJournal(tmp_path))
    for number in (3, 4):
        flip(tmp_path / f"000{number}-global.safetensors")
    journal = RoundJournal(tmp_path)
    assert journal.newest() is None
    assert journal.damaged[-1].endswith("The rounds go on after round 0.")
    assert train(four, cohort, RoundJournal(tmp_path)) == whole


def test_a_full_disk_ends_the_rounds_with_the_last_one_intact(four, cohort, tmp_path, monkeypatch):
    """The disk is full from the third round's weights on."""
    whole = train(four, cohort, None)
    save, saved = weights.save_file, []

    def fill_up(tensors, path, metadata):
        saved.append(path)
        if len(saved) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(weights, "save_file", fill_up)
    with refused("disk", "full", kind=DiskError):
        train(four, cohort, RoundJournal(tmp_path))
    monkeypatch.setattr(weights, "save_file", save)
    assert RoundJournal(tmp_path).newest().round == 2
    assert train(four, cohort, RoundJournal(tmp_path)) == whole


def test_what_server_and_hospitals_keep_comes_back(tmp_path):
    journal = RoundJournal(tmp_path)
    memories = {"north": {"now/bn.weight": torch.ones(3)}, "south": {}, "a/b": {"round": torch.tensor(7)}}
    journal.write(Position(1, {"w": torch.zeros(2)}, {"m/w": torch.ones(2)}, memories, [{"round": 1}], []))
    kept = journal.newest()
    assert kept.state["w"].tolist() == [0, 0]
    assert kept.strategy["m/w"].tolist() == [1, 1]
    assert kept.memories["north"]["now/bn.weight"].tolist() == [1, 1, 1]
    assert "south" not in kept.memories
    assert kept.history == [{"round": 1}]


@pytest.fixture
def personal(four):
    """Norms stay in the hospitals, one of which sits out each round; the server has an optimizer."""
    given = {"personal": "norms", "participation": {"number": 2}, "optimizer": {"method": "fedadam"}}
    return four.model_copy(update={"federation": FederationOptions.model_validate(given)})


def test_what_hospitals_keep_to_themselves_survives(personal, cohort, tmp_path):
    """A new process has new hospitals, which know nothing: without their memories the bits would differ."""
    whole = train(personal, cohort, None)
    assert train(personal, cohort, RoundJournal(tmp_path), dies_in=3) is None
    assert set(RoundJournal(tmp_path).newest().memories) == {"alpha", "beta", "gamma"}
    assert train(personal, cohort, RoundJournal(tmp_path)) == whole

    other = tmp_path / "other"
    assert train(personal, cohort, RoundJournal(other), dies_in=3) is None
    forgetful = RoundJournal(other)
    forgetful.newest = lambda: replace(RoundJournal(other).newest(), memories={})
    assert train(personal, cohort, forgetful)[0] != whole[0]


def test_a_round_whose_memories_are_gone_is_done_again(personal, cohort, tmp_path):
    whole = train(personal, cohort, RoundJournal(tmp_path))
    (tmp_path / "0004-memories.safetensors").unlink()
    assert RoundJournal(tmp_path).newest().round == 3
    assert train(personal, cohort, RoundJournal(tmp_path)) == whole


def test_failures_of_an_earlier_process_stay(four, cohort, tmp_path, monkeypatch):
    from fedmerge.federation.hospital import hospital
    from fedmerge.training import fit

    def fail_at_beta(*args, **kwargs):
        draws = kwargs["draws"]
        if draws.site == "beta" and draws.round in (1, 3):
            raise FedMergeError("the power failed.")
        return fit(*args, **kwargs)

    monkeypatch.setattr(hospital, "fit", fail_at_beta)
    whole = train(four, cohort, None)
    assert [(failure.site, failure.round) for failure in whole[2]] == [("beta", 1), ("beta", 3)]
    assert train(four, cohort, RoundJournal(tmp_path), dies_in=3) is None
    assert train(four, cohort, RoundJournal(tmp_path)) == whole
