"""A node's folder with a hospital behind its guard, and a server that sends it whatever a test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.policy.approvals import Approvals, Decision
from fedmerge.federation.policy.audit import audit_log
from fedmerge.federation.policy.guard import Guard
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.models import build


@dataclass
class Asker:
    """One hospital's node, asked message by message; ``run`` is the number of the run that asks."""

    folder: Path
    site: Any
    seed: int = 0
    threads: int = 1
    run: int = 1
    grid: Any = field(init=False)

    def __post_init__(self):
        self.start()

    def start(self, **rules):
        """Start its process anew, with other fields in policy.yaml."""
        if rules:
            (self.folder / "policy.yaml").write_text(yaml.safe_dump(rules))
        guard = Guard(self.folder, self.seed, self.threads)
        hospital = Hospital(self.site, folder=self.folder, guard=guard)
        self.grid = LocalGrid(client_app(lambda context: hospital), 1)

    def ask(self, kind, job, state=None):
        """The reply to a job, or the sentence with which it was refused."""
        (node,) = self.grid.get_node_ids()
        self.grid._contexts[node].run_id = self.run
        (reply_message,) = self.grid.send_and_receive([request_message(kind, node, "g", job, state)])
        return reply_message.error.reason if reply_message.has_error() else reply_message

    def wait_for_clients(self, proposal):
        return self.ask("query", proposal.job())

    def approve(self, proposal, **limits):
        name = self.approvals.keep(proposal)
        self.approvals.decide(name, Decision(True, "Ada", **limits))
        return name

    @property
    def approvals(self):
        return Approvals(self.folder)

    @property
    def log(self):
        return audit_log(self.folder).entries()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "node.yaml").write_text("site: alpha\n")
    return tmp_path / "node"


@pytest.fixture
def asker(folder, cohort):
    return Asker(folder, cohort["alpha"])


@pytest.fixture
def proposal(plan):
    return Proposal(experiment="trial", plan=plan)


@pytest.fixture
def approved(asker, proposal):
    """A node whose people approved the proposal, and that was greeted with it."""
    asker.start(suppress_below=1)
    asker.approve(proposal)
    assert not isinstance(asker.wait_for_clients(proposal), str)
    return asker


@pytest.fixture
def start(plan):
    return build(plan.model, plan.seed).state_dict()
