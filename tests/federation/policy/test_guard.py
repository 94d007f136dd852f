"""A server that wants more than was approved: every message is refused, with a reason, and is on record."""

import datetime
import json

import pytest
import yaml

from fedmerge.federation import FederationOptions, Hospital
from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.plan.fault_injection import Fault
from fedmerge.federation.plan.train_config import common_config, fine_tune_config, round_config
from fedmerge.federation.policy import guard as guards
from fedmerge.federation.policy.proposal import Proposal, SumsAsked
from fedmerge.models import state_hash
from fedmerge.storage import chained_log
from fedmerge.storage.chained_log import BrokenChain
from fedmerge.training import TrainingOptions


def refused(answer, *facts):
    assert isinstance(answer, str), "it was answered"
    for fact in facts:
        assert fact in answer
    return answer


def changed(plan, **fields):
    return plan.model_copy(update=fields)


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


def other_job(plan, which):
    """A training job with one thing in it that nobody approved."""
    job = json.loads(json.dumps(round_config(plan, 1)))
    training = job["training"]
    if which in training:
        value = training[which]
        training[which] = {"epochs": 50, "lr": 0.5, "augment": ["flip"], "batch_size": 1}[which]
        assert training[which] != value
    elif which == "model":
        job["model"]["options"] = {"width": 8}
    elif which == "model.pretrained":
        job["model"]["pretrained"] = True
    elif which == "normalisation":
        job["normalisation"] = {"mean": [0.0], "std": [0.1]}
    elif which == "seed":
        job["seed"] = 7
    elif which == "span":
        job["span"] = [0.0, 1.0]
    elif which == "start":
        job["start"] = "own"
    elif which == "personal":
        job["personal"] = "head"
    elif which == "secure":
        job["secure"] = True
    elif which == "since":
        job["since"] = 0
    elif which == "purpose":
        job["purpose"] = "fine-tune"
    elif which == "round 3 as a round":
        job["round"] = 3
    elif which == "round 4":
        job["round"] = 4
    elif which == "round 0":
        job["round"] = 0
    elif which.startswith("faults"):
        kind = which.removeprefix("faults ")
        job["faults"] = [{"kind": kind} | ({"seconds": 1.0} if kind == "slow" else {})]
    return job


@pytest.mark.parametrize(
    "which",
    [
        "epochs", "lr", "augment", "batch_size", "model", "model.pretrained", "normalisation", "seed", "span",
        "start", "personal", "secure", "since", "purpose", "round 3 as a round", "round 4", "round 0",
        "faults label-flip", "faults nan", "faults slow", "faults crash",
    ],
)  # fmt: skip
def test_a_training_that_the_plan_does_not_lead_to_is_refused(approved, plan, start, which):
    job = other_job(plan, which)
    assert job != round_config(plan, 1)
    reason = refused(approved.ask("train", job, start))
    last = approved.log[-1]
    assert last["event"] == "refused"
    assert last["reason"] == reason
    assert "model_out" not in last


@pytest.mark.parametrize(
    ("kind", "job"),
    [
        ("query.memory", {}),
        ("query.restore", {}),
        ("query.sums", {"session": "0" * 64, "kind": "inputs", "options": {}}),
        ("query.secure_shares", {"label": "run train 1", "adverts": []}),
        ("query.secure_masked", {"label": "run train 1", "parties": [], "shares": {}}),
        ("query.secure_confirm", {"label": "run train 1", "survivors": []}),
        ("query.secure_unmask", {"label": "run train 1", "survivors": [], "confirmed": {}}),
        ("query.anything", {}),
    ],
)
def test_a_request_that_the_plan_does_not_have_is_refused(approved, plan, start, kind, job):
    refused(approved.ask(kind, job))


def test_an_approved_secure_round_is_answered_under_masks_alone(asker, plan, start):
    """Whatever the policy: people approved that nothing leaves in the open. How it is coded is the plan's."""
    make_node_key(asker.folder)
    masked = FederationOptions(secure_aggregation=True)
    secure = changed(plan, fine_tune=None, federation=masked)
    asker.start(suppress_below=1)
    asker.approve(Proposal(plan=secure))
    assert not isinstance(asker.wait_for_clients(Proposal(plan=secure)), str)
    job = round_config(secure, 1)
    refused(asker.ask("train", job, start), "weights in the open")
    refused(asker.ask("evaluate", common_config(secure), start), "scores in the open")
    labelled = {"label": "run train 1", "batch_norm": secure.batch_norm}
    refused(asker.ask("train.secure", job | labelled | {"batch_norm": "average"}, start), "batch_norm")
    refused(asker.ask("train.secure", job | labelled | {"round": 3}, start), "round 3")
    assert not isinstance(asker.ask("train.secure", job | labelled, start), str)
    score = common_config(secure) | {"label": "run validate 1"}
    assert not isinstance(asker.ask("evaluate.secure", score, start), str)


@pytest.mark.parametrize("kind", ["train.secure", "evaluate.secure"])
def test_a_secure_sum_that_was_not_approved_is_refused(approved, plan, start, kind):
    job = (
        round_config(plan, 1) | {"batch_norm": plan.batch_norm}
        if kind == "train.secure"
        else common_config(plan)
    )
    refused(
        approved.ask(kind, job | {"label": "x"}, start), "secure sum, but the approved experiment has none"
    )


def test_sums_are_answered_within_what_was_approved(asker, plan, start):
    """Of as many images and of that split; none where the proposal says none."""
    with_sums = Proposal(plan=plan, sums=SumsAsked(images=16, split="val"))
    refused(asker.wait_for_clients(with_sums), "sums: false")
    asker.start(sums=True, approval="any", suppress_below=1)
    assert not isinstance(asker.wait_for_clients(with_sums), str)
    job = common_config(plan) | {"parents": ["alpha"], "images": {"alpha": 17}, "split": "val"}
    job |= {"session": "0" * 64}
    refused(asker.ask("query.sums_begin", job), "sums over 17 images", "at most 16")
    refused(asker.ask("query.sums_begin", job | {"images": {"beta": 3}}), "sums over None")
    refused(asker.ask("query.sums_begin", job | {"images": {"alpha": 16}, "split": "train"}), "split")
    refused(asker.ask("query.sums_begin", job | {"images": {"alpha": 16}, "seed": 3}), "seed")
    asker.wait_for_clients(Proposal(plan=plan))
    refused(asker.ask("query.sums_begin", job | {"images": {"alpha": 16}}), "does not have")


def test_sums_that_were_approved_under_masks_are_given_under_masks_alone(asker, plan):
    """And those approved in the open are no secure sums."""
    make_node_key(asker.folder)
    asker.start(sums=True, approval="any", suppress_below=1)
    masked = changed(plan, federation=FederationOptions(secure_statistics=True))
    job = common_config(plan) | {"parents": ["alpha"], "images": {"alpha": 16}, "split": "val"}
    job |= {"session": "0" * 64}
    request = {"session": "0" * 64, "kind": "moments", "options": {}}
    asker.wait_for_clients(Proposal(plan=masked, sums=SumsAsked(images=16, split="val")))
    refused(asker.ask("query.sums_begin", job), "in the open", "secure_statistics")
    refused(asker.ask("query.sums", request), "in the open")
    refused(asker.ask("query.secure_sums_begin", job | {"images": {"alpha": 17}}), "sums over 17 images")
    assert not isinstance(asker.ask("query.secure_sums_begin", job), str)
    assert not isinstance(asker.ask("query.secure_sums", request | {"label": "x"}), str)
    refused(asker.ask("query.secure_shares", {"label": "x", "adverts": []}), "has no numbers of 'x'")
    asker.wait_for_clients(Proposal(plan=plan, sums=SumsAsked(images=16, split="val")))
    refused(asker.ask("query.secure_sums_begin", job), "under masks")
    refused(asker.ask("query.secure_sums", request | {"label": "x"}), "under masks")
    refused(asker.ask("query.secure_shares", {"label": "x", "adverts": []}), "has none")
    asker.wait_for_clients(Proposal(plan=masked))
    refused(asker.ask("query.secure_sums", request | {"label": "x"}), "does not have")


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


def test_faults_are_never_injected_unless_the_policy_allows_and_the_plan_has_them(asker, plan, start):
    rules = FederationOptions(faults=(Fault(kind="label-flip", rounds=(1,)),))
    faulty = Proposal(plan=changed(plan, federation=rules))
    asker.approve(faulty)
    refused(asker.wait_for_clients(faulty), "faults: never")
    asker.start(faults="allow", suppress_below=1)
    assert not isinstance(asker.wait_for_clients(faulty), str)
    second = round_config(faulty.plan, 2) | {"faults": [{"kind": "label-flip"}]}
    refused(asker.ask("train", second, start), "orders faults", "round 2")
    first = round_config(faulty.plan, 1)
    refused(asker.ask("train", first, start), "orders faults")  # the approved experiment has one there
    assert not isinstance(asker.ask("train", first | {"faults": [{"kind": "label-flip"}]}, start), str)


def test_a_round_is_answered_as_often_as_the_plan_asks_and_a_run_scores_within_the_limit(asker, plan, start):
    """Each answer to the same round from other weights would say more about the images."""
    twice = Proposal(plan=changed(plan, federation=FederationOptions(on_failure="retry")))
    asker.start(approval="any", suppress_below=1, limits={"scores": 3})
    asker.wait_for_clients(twice)
    for _ in range(2):
        assert not isinstance(asker.ask("train", round_config(twice.plan, 1), start), str)
    asker.start()  # another process knows it, too
    asker.wait_for_clients(twice)
    refused(asker.ask("train", round_config(twice.plan, 1), start), "2 times")
    for _ in range(3):
        assert not isinstance(asker.ask("evaluate", common_config(plan), start), str)
    refused(asker.ask("evaluate", common_config(plan), start), "3 times")
    asker.run = 2
    asker.wait_for_clients(twice)
    assert not isinstance(asker.ask("train", round_config(twice.plan, 1), start), str)


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


def test_the_policy_is_read_for_every_message(approved, plan, start):
    assert not isinstance(approved.ask("train", round_config(plan, 1), start), str)
    (approved.folder / "policy.yaml").write_text(yaml.safe_dump({"limits": {"rounds": 1}}))
    refused(approved.ask("train", round_config(plan, 2), start), "limits.rounds is 1", "there are 2")
    (approved.folder / "policy.yaml").write_text("aproval: any\nfaults: perhaps\n")
    said = refused(approved.ask("train", round_config(plan, 2), start), "aproval", "faults")
    assert approved.log[-1]["reason"] in " ".join(said.split())
    assert len({entry["policy"] for entry in approved.log if entry["event"] != "decision"}) == 3


def test_what_cannot_be_put_on_record_does_not_leave(approved, plan, start, monkeypatch):
    from fedmerge.storage.files import DiskError

    def full(*args, **kwargs):
        raise DiskError(approved.folder, "No space left on device", True)

    monkeypatch.setattr(guards, "audit", full)
    refused(approved.ask("train", round_config(plan, 1), start), "the disk is full")


def test_proposals_that_wait_are_bounded(asker, plan, monkeypatch):
    from fedmerge.federation.policy import approvals

    monkeypatch.setattr(approvals, "MOST", 2)
    for rounds in (1, 2):
        refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=rounds))), "has not approved")
    refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=3))), "2 experiments wait")
    refused(asker.wait_for_clients(Proposal(plan=changed(plan, rounds=2))), "has not approved")
    assert len(asker.approvals.hashes()) == 2


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
