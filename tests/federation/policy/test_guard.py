"""The guard of a node: nothing before an approval, all of it on record, and the policy read every time."""

import json

import pytest
import yaml

from fedmerge.federation import Hospital
from fedmerge.federation.plan.train_config import common_config, fine_tune_config, round_config
from fedmerge.federation.policy import guard as guards
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.models import state_hash
from tests.federation.policy.answering import refused


def test_nothing_is_said_before_people_have_approved(asker, proposal, start, plan):
    """Not even who it is: the refusal names the hash and the command, and the proposal waits."""
    (name,) = [asker.approvals.keep(proposal)]
    said = refused(asker.wait_for_clients(proposal), name, "fedmerge deployment approve", name[:16])
    assert "alpha" not in said
    refused(asker.ask("train", round_config(plan, 1), start), "did not say what it is going to ask")
    assert [entry["event"] for entry in asker.log] == ["waits for approval", "refused"]
    assert asker.approvals.read(name)[0] == proposal


def test_what_was_approved_is_answered_to_its_end(approved, plan, start):
    first = approved.ask("train", round_config(plan, 1), start)
    second = approved.ask("train", round_config(plan, 2), start)
    own = approved.ask("train", fine_tune_config(plan), start)
    score = approved.ask("evaluate", common_config(plan) | {"calibrate": True}, start)
    assert not [answer for answer in (first, second, own, score) if isinstance(answer, str)]
    entries = approved.log
    assert [entry["event"] for entry in entries] == ["decision", *["answered"] * 5]
    trained = entries[2]
    assert trained["model_in"] == state_hash(start)
    from fedmerge.federation.arrays import borrow

    assert trained["model_out"] == state_hash(borrow(first.content["arrays"]))
    assert trained["bytes_in"] > sum(value.nbytes for value in start.values())
    assert (trained["run"], trained["kind"], trained["server"]) == (1, "train", "none")


def test_the_policy_is_read_for_every_message(approved, plan, start):
    assert not isinstance(approved.ask("train", round_config(plan, 1), start), str)
    (approved.folder / "policy.yaml").write_text(yaml.safe_dump({"limits": {"rounds": 1}}))
    refused(approved.ask("train", round_config(plan, 2), start), "limits.rounds is 1", "there are 2")
    (approved.folder / "policy.yaml").write_text("aproval: any\nfaults: perhaps\n")
    said = refused(approved.ask("train", round_config(plan, 2), start), "aproval", "faults")
    assert approved.log[-1]["reason"] in " ".join(said.split())
    assert len({entry["policy"] for entry in approved.log if entry["event"] != "decision"}) == 3


def test_what_cannot_be_put_on_record_does_not_leave(approved, plan, start, monkeypatch):
    from fedmerge.storage.disk import SPACE, DiskError

    def full(*args, **kwargs):
        raise DiskError(approved.folder, "No space left on device", SPACE)

    monkeypatch.setattr(guards, "audit", full)
    refused(approved.ask("train", round_config(plan, 1), start), "the disk is full")


def test_a_server_of_another_version_or_without_a_proposal_is_told_so(asker, plan):
    refused(asker.wait_for_clients(Proposal(plan=plan, version="9.9")), "FedMerge 9.9")
    refused(asker.ask("query", {}), "does not say what it is going to ask")


def test_a_node_that_was_killed_at_work_has_not_answered_and_may_again(approved, plan, start, monkeypatch):
    """Only what was about to leave counts: once it has, the same round is not answered again."""

    def killed(hospital, message):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guards, "strip", killed)  # after the answer was counted
        with pytest.raises(KeyboardInterrupt):
            approved.ask("train", round_config(plan, 1), start)
        refused(approved.ask("train", round_config(plan, 1), start), "1 times")
    with monkeypatch.context() as patch:
        patch.setattr(Hospital, "train", killed)  # before it
        with pytest.raises(KeyboardInterrupt):
            approved.ask("train", round_config(plan, 2), start)
    approved.start()
    assert not isinstance(approved.ask("train", round_config(plan, 2), start), str)
    refused(approved.ask("train", round_config(plan, 2), start), "1 times")


def test_an_inspection_is_answered_where_the_policy_says_so_and_hides_small_counts(asker):
    job = {"minimum": 1}
    refused(asker.ask("query.inspect", job), "policy.yaml: inspection")
    asker.start(inspection=True, suppress_below=1000)
    answer = asker.ask("query.inspect", job)
    told = json.loads(answer.content["texts"]["json"])
    assert (told["minimum"], told["train"], told["intensities"]) == (1000, "hidden", [])
    asker.start(inspection=True, suppress_below=1)
    told = json.loads(asker.ask("query.inspect", job).content["texts"]["json"])
    assert told["train"] == len(asker.site.train)
    assert [entry["event"] for entry in asker.log] == ["refused", "answered", "answered"]


def test_checks_of_images_are_told_only_where_the_policy_says_so_too(asker):
    job = {"minimum": 1, "checks": True}
    asker.start(inspection=True, suppress_below=1)
    assert "checks" not in json.loads(asker.ask("query.inspect", job).content["texts"]["json"])
    asker.start(inspection=True, inspection_checks=True, suppress_below=1000)
    told = json.loads(asker.ask("query.inspect", job).content["texts"]["json"])["checks"]
    assert (told["middle"], told["brightness"]) == (None, None)
