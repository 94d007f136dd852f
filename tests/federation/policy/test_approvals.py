"""An approval is for one experiment, until its day, and nobody can write it but those who decide."""

import datetime
import json

import pytest

from fedmerge.federation.plan.train_config import common_config, round_config
from fedmerge.federation.policy import guard as guards
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.storage import chained_log
from fedmerge.storage.chained_log import BrokenChain
from fedmerge.training import TrainingOptions
from tests.federation.policy.answering import changed, refused


def test_an_approval_is_for_one_seed_one_plan_and_one_code(approved, plan, proposal, monkeypatch):
    """Replayed with another seed, longer, or after the node's FedMerge changed: it is another."""
    for other in (changed(plan, rounds=3), changed(plan, local=TrainingOptions(lr=0.06, batch_size=12))):
        refused(approved.wait_for_clients(Proposal(experiment="trial", plan=other)), "has not approved")
    refused(approved.wait_for_clients(Proposal(experiment="trial", plan=changed(plan, seed=1))), "seed")
    from fedmerge.federation.policy import proposal as proposals

    monkeypatch.setattr(proposals, "code_version", lambda: "0.1.0+another")
    refused(approved.wait_for_clients(proposal), "has not approved")


def test_the_seed_that_splits_the_images_is_that_of_the_plan(asker, proposal):
    """The run's configuration has a seed, too, by which a hospital's images are split."""
    asker.approve(proposal)
    asker.seed = 1
    asker.start()
    refused(asker.wait_for_clients(proposal), "seed 1", "plan has 0")


def test_an_approval_ends_by_its_day_its_runs_or_a_refusal(asker, proposal, plan, start):
    asker.start(suppress_below=1)
    name = asker.approve(proposal, runs=1)
    assert not isinstance(asker.wait_for_clients(proposal), str)
    asker.run = 2
    refused(asker.wait_for_clients(proposal), "approved for 1 run")
    asker.run = 1
    assert not isinstance(asker.ask("train", round_config(plan, 1), start), str)
    asker.approve(proposal, until=datetime.date(2020, 1, 1))
    refused(asker.ask("train", round_config(plan, 2), start), "until 2020-01-01")
    asker.approve(proposal, until=datetime.date(9999, 1, 1))
    assert not isinstance(asker.ask("train", round_config(plan, 2), start), str)
    asker.approvals.decide(name, guards_decision("enough"))
    refused(asker.ask("evaluate", common_config(plan), start), "refused by Ada", "enough")


def test_a_clock_set_back_does_not_make_an_approval_that_ends_last_longer(asker, proposal, monkeypatch):
    """The logs go on, one entry after the other, whatever times they say."""
    today = datetime.datetime.now(datetime.UTC)

    class Back(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return today - datetime.timedelta(days=400)

    asker.start(suppress_below=1)
    asker.approve(proposal, until=today.date() + datetime.timedelta(days=30))
    assert not isinstance(asker.wait_for_clients(proposal), str)
    for module in (guards, chained_log):
        monkeypatch.setattr(module, "datetime", Back)
    refused(asker.wait_for_clients(proposal), f"approved on {today.date()}", "set the clock")
    asker.approve(proposal)  # it has no last day, so the clock has no say
    assert not isinstance(asker.wait_for_clients(proposal), str)
    times = [entry["at"] for entry in asker.log]
    assert times != sorted(times)
    assert [entry["n"] for entry in asker.log] == list(range(1, len(times) + 1))


def guards_decision(reason):
    from fedmerge.federation.policy.approvals import Decision

    return Decision(False, "Ada", reason=reason)


def test_a_decision_written_by_hand_is_worth_nothing(asker, proposal):
    """Into the file, without its chain; and a request that was exchanged for another."""
    name = asker.approve(proposal)
    path = asker.approvals.log.path
    line = json.loads(path.read_text())
    other = asker.approvals.keep(Proposal(experiment="other", plan=proposal.plan))
    path.write_text(path.read_text() + json.dumps(line | {"n": 2, "proposal": other}) + "\n")
    with pytest.raises(BrokenChain):
        asker.approvals.decisions()
    refused(asker.wait_for_clients(proposal), "not what was written")
    path.write_text(json.dumps(line) + "\n")
    requests = asker.approvals.requests
    (requests / f"{name}.json").write_bytes((requests / f"{other}.json").read_bytes())
    refused(asker.ask("evaluate", common_config(proposal.plan)))


def test_another_proposal_under_an_approved_name_is_no_approved_one(asker, proposal, plan, start):
    """A whole file, in order, but of another experiment than its name says."""
    asker.start(suppress_below=1)
    name = asker.approve(proposal)
    asker.wait_for_clients(proposal)
    other = asker.approvals.keep(Proposal(plan=changed(plan, rounds=9)))
    requests = asker.approvals.requests
    (requests / f"{name}.json").write_bytes((requests / f"{other}.json").read_bytes())
    refused(asker.ask("train", round_config(changed(plan, rounds=9), 1), start), "damaged")


def test_proposals_that_wait_are_bounded(asker, plan, monkeypatch):
    from fedmerge.federation.policy import approvals

    monkeypatch.setattr(approvals, "MOST", 2)
    for rounds in (1, 2):
        refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=rounds))), "has not approved")
    refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=3))), "2 experiments wait")
    refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=2))), "has not approved")
    assert len(asker.approvals.hashes()) == 2
