"""A server that wants more than the approved plan has: every such message is refused."""

import json

import pytest

from fedmerge.federation import FederationOptions
from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.plan.fault_injection import Fault
from fedmerge.federation.plan.train_config import common_config, round_config
from fedmerge.federation.policy.proposal import Proposal, SumsAsked
from tests.federation.policy.answering import changed, refused


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
