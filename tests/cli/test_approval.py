"""What a hospital's people type: look at requests, approve, refuse, read the policy, check the log."""

from __future__ import annotations

import json

import pytest
import yaml
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationPlan
from fedmerge.federation.policy.approvals import Approvals
from fedmerge.federation.policy.audit import audit
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.policy.rules import Policy
from fedmerge.models import ModelSpec, Normalisation
from fedmerge.training import TrainingOptions


def invoke(*args: object) -> str:
    done = CliRunner().invoke(app, ["deployment", *map(str, args)])
    if isinstance(done.exception, FedMergeError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def node(tmp_path):
    settings = {"site": "north", "cohort": "north.yaml", "server": "fusion.example.org:8000"}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.fixture
def waiting(node):
    """The hash of an experiment that was asked for."""
    plan = FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8),
        normalisation=Normalisation.named("half"),
        seed=4,
        rounds=7,
        local=TrainingOptions(epochs=3),
        fine_tune=None,
    )
    return Approvals(node).keep(Proposal(experiment="chest-2027", plan=plan))


def test_a_request_is_told_in_words_and_as_json(node, waiting):
    told = invoke("requests", node)
    for fact in (waiting, "chest-2027", "7, each 3 epochs", "small-cnn", "waits", "its update of the model"):
        assert fact in told
    (row,) = json.loads(invoke("requests", node, "--json"))
    assert (row["hash"], row["decided"], row["proposal"]["plan"]["seed"]) == (waiting, "waits", 4)


def test_without_requests_it_says_so(node):
    assert "no server has asked" in invoke("requests", node)


def test_a_decision_is_by_somebody_about_one_request_and_the_last_one_counts(node, waiting):
    with refused("--by", "empty"):
        invoke("approve", node, waiting, "--by", " ")
    for wrong in ("", waiting[:7], "0" * 64, "*"):
        with refused("request", "hash"):
            invoke("approve", node, wrong, "--by", "Ada")
    invoke("approve", node, waiting[:8], "--by", "Ada", "--until", "2027-01-31", "--runs", 2)
    (row,) = json.loads(invoke("requests", node, "--json"))
    assert (row["decided"], row["by"], row["until"], row["runs"]) == ("approved", "Ada", "2027-01-31", 2)
    invoke("refuse", node, waiting, "--by", "Bob", "--reason", "not now")
    (row,) = json.loads(invoke("requests", node, "--json"))
    assert (row["decided"], row["by"], row["reason"]) == ("refused", "Bob", "not now")
    entries = json.loads(invoke("audit", node, "--json"))
    assert [(entry["decided"], entry["by"]) for entry in entries] == [("approved", "Ada"), ("refused", "Bob")]


def test_the_policy_in_force_is_printed_with_every_field(node):
    (node / "policy.yaml").write_text("approval: any\n")
    told = yaml.safe_load(invoke("policy", node))
    assert told == Policy(approval="any").model_dump(mode="json")
    assert len(json.loads(invoke("policy", node, "--json"))["hash"]) == 64


def test_the_log_is_printed_checked_and_held_against_a_head(node):
    audit(node, "node started", code="1")
    head = invoke("audit", node, "--head-only").strip()
    audit(node, "node stopped")
    assert "node started" in invoke("audit", node)
    assert "2 entries" in invoke("audit", node, "--verify", "--head", head)
    with refused("--head", "goes", "--verify"):
        invoke("audit", node, "--head", head)
    path = node / "records" / "audit.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0].replace('"1"', '"2"'))
    with refused("line", "1"):
        invoke("audit", node, "--verify")
