"""Secure rounds that are asked for again: no second sum that shows a hospital, and runs go on."""

import numpy as np
import pytest

from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import state_hash
from tests.federation.secure.rounds.serving import rows, ward


def test_a_repeated_round_with_one_hospital_less_gives_no_second_sum(secure, cohort, folders):
    """The attack that took the weights of a hospital out of two sums, to 2e-7: now the second is refused.

    Four hospitals' sum; the server loses it, and is started again without the fourth; training is
    deterministic, so it gives the same weights. Whatever the server calls the run.
    """
    server = ward(secure, cohort.sites, folders, contexts=True)
    start = server.start()
    four = server.strategy.round(server.grid, 1, start)
    assert state_hash(four) != state_hash(start)
    for run in (server.strategy.run, "another"):
        again = ward(secure, cohort.sites[:3], folders, contexts=True)
        again.strategy.run = run
        three = again.strategy.round(again.grid, 1, start)
        assert state_hash(three) == state_hash(start)
        reasons = [f.reason for f in again.strategy.failures if f.phase == "sum" and f.site != "everyone"]
        assert len(reasons) >= 3
        assert all("has answered for other participants with these numbers" in reason for reason in reasons)


@pytest.mark.parametrize("nudge", ["learning rate", "start", "seed of nothing"])
def test_nor_does_a_round_that_is_repeated_almost_the_same(secure, cohort, folders, nudge):
    """Weights that differ in the last places have another digest, and are the same weights all the same."""
    server = ward(secure, cohort.sites, folders)
    start = server.start()
    server.strategy.round(server.grid, 1, start)
    local = secure.local
    changed = secure.model_copy(update={"local": local.model_copy(update={"lr": local.lr * 1.001})})
    again = ward(changed if nudge == "learning rate" else secure, cohort.sites[:3], folders)
    again.strategy.run = "another"
    moved = start
    if nudge != "learning rate":
        by = 1e-6 if nudge == "start" else 0.0
        moved = {key: v + by if v.is_floating_point() else v for key, v in start.items()}
    three = again.strategy.round(again.grid, 1, moved)
    assert state_hash(three) == state_hash(moved)
    assert "other participants with these numbers" in again.strategy.failures[0].reason


def test_the_round_after_goes_on_with_fewer(secure, cohort, folders):
    """A hospital that leaves between two rounds stops nothing: other weights may be summed without it."""
    server = ward(secure, cohort.sites, folders)
    state = server.strategy.round(server.grid, 1, server.start())
    fewer = ward(secure, cohort.sites[:3], folders)
    fewer.strategy.run = server.strategy.run
    assert state_hash(fewer.strategy.round(fewer.grid, 2, state)) != state_hash(state)
    assert fewer.strategy.failures == []


def test_a_resumed_round_takes_the_sum_that_is_there(secure, cohort, folders, tmp_path):
    """The server dies between the sum and the end of round 1. It goes on without asking for it again, with a
    hospital less, and with the bits that it would have had."""
    whole = ward(secure, cohort.sites)
    expected = whole.strategy.round(whole.grid, 1, whole.start())
    journal = RoundJournal(tmp_path / "rounds")
    server = ward(secure, cohort.sites, folders)

    def dies(*anything):
        raise KeyboardInterrupt

    server.strategy.configure_evaluate = dies
    with pytest.raises(KeyboardInterrupt):
        server.rounds(server.start(), journal)
    again = ward(secure.model_copy(update={"rounds": 1}), cohort.sites[:3], folders)
    found = again.rounds(again.start(), journal)
    assert "train.secure" not in again.grid.kinds()
    assert state_hash(found) == state_hash(expected)
    assert again.strategy.run == server.strategy.run
    assert [row["site"] for row in rows(again, "train")] == ["everyone"]
    assert not list((tmp_path / "rounds").glob("*-sum.*"))


def test_a_damaged_sum_is_asked_for_again(secure, cohort, tmp_path):
    journal = RoundJournal(tmp_path)
    journal.write_sum(1, ["a"], np.arange(3, dtype=np.uint64))
    path = tmp_path / "0001-sum.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert journal.read_sum(1) is None
    assert journal.damaged
    assert journal.run() == RoundJournal(tmp_path).run()


def test_a_damaged_ledger_gives_nothing(secure, cohort, folders):
    server = ward(secure, cohort.sites, folders)
    start = server.start()
    server.strategy.round(server.grid, 1, start)
    path = folders["alpha"] / "records" / "secure-sums.jsonl"
    path.write_text(path.read_text().replace('"delta"', '"omega"'))
    again = ward(secure, cohort.sites, folders)
    again.strategy.round(again.grid, 1, start)
    assert again.strategy.failures[0].site == "alpha"
    assert "is not what was written there" in again.strategy.failures[0].reason
