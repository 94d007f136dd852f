"""The server's side: it waits for approvals, hears refusals by name, and keeps a record of its own."""

import threading
import time
from contextlib import suppress

import pytest
from facts import refused
from flwr.app import ConfigRecord

from fedmerge.errors import FedMergeError
from fedmerge.federation import Hospital, LocalGrid, client_app
from fedmerge.federation.admission import Admitted, write_admitted
from fedmerge.federation.grids.audited import AuditedGrid
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.policy.audit import verify
from fedmerge.federation.policy.proposal import Proposal, proposal_hash
from fedmerge.federation.server import clients
from fedmerge.federation.server.clients import wait_for_clients
from fedmerge.models import state_hash


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(clients, "POLL", 0.01)
    monkeypatch.setattr(clients, "AGAIN", 0.02)


def test_a_server_waits_until_people_have_approved(asker, proposal):
    def approve_when_asked():
        while True:
            with suppress(FedMergeError):  # a line that is being written is no line yet
                if asker.log:
                    break
            time.sleep(0.01)
        asker.approve(proposal)

    threading.Thread(target=approve_when_asked, daemon=True).start()
    admitted = dict.fromkeys(asker.grid.get_node_ids(), "alpha")
    members, absent = wait_for_clients(asker.grid, ["alpha"], 600.0, admitted, told=proposal.job())
    assert ([member.name for member in members], absent) == (["alpha"], {})
    events = [entry["event"] for entry in asker.log]
    assert events[0] == "waits for approval"
    assert events[-1] == "answered"  # a question that was on its way may have been refused after the decision
    assert events.count("answered") == events.count("decision") == 1
    assert events.index("decision") < events.index("answered")


def test_without_patience_the_run_says_whose_approval_it_lacks(asker, proposal):
    with refused("hospital", "answered", proposal_hash(proposal)):
        wait_for_clients(
            asker.grid, ["alpha"], 0.0, {asker.grid.get_node_ids()[0]: "alpha"}, told=proposal.job()
        )


def test_a_hospital_whose_people_refused_is_not_waited_for(asker, proposal):
    from fedmerge.federation.policy.approvals import Decision

    name = asker.approvals.keep(proposal)
    asker.approvals.decide(name, Decision(False, "Ada", reason="not this year"))
    with refused("refused", "Ada", "year"):
        wait_for_clients(asker.grid, ["alpha"], 3600.0, None, told=proposal.job())


def test_the_server_s_log_has_what_went_out_and_what_came_back(approved, proposal, plan, start, tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "server.yaml").write_text("")
    grid = AuditedGrid(approved.grid, folder, 9)
    (node,) = grid.get_node_ids()
    from fedmerge.federation.plan.train_config import round_config

    asked = [
        request_message("query", node, "greeting", proposal.job(), None),
        request_message("train", node, "1", round_config(plan, 1), start),
        request_message("train", node, "1", round_config(plan, 1) | {"seed": 5}, start),
    ]
    for message in asked:
        list(grid.send_and_receive([message]))
    entries = verify(folder)
    assert [entry["event"] for entry in entries] == ["asked", "answered"] * 2 + ["asked", "refused"]
    assert entries[0]["proposal"] == proposal_hash(proposal) == approved.log[1]["proposal"]
    assert entries[2]["model_out"] == state_hash(start) == approved.log[-2]["model_in"]
    assert entries[3]["model_in"] == approved.log[-2]["model_out"]
    assert "seed" in entries[5]["reason"]
    assert {entry["run"] for entry in entries} == {9}


class EmptyTexts(LocalGrid):
    """A grid whose hospital adds an empty text and an empty list to each reply, which Flower cannot count."""

    def send_and_receive(self, messages, *, timeout=None):
        for reply_message in super().send_and_receive(messages, timeout=timeout):
            reply_message.content["more"] = ConfigRecord({"text": "", "list": []})
            yield reply_message


def test_an_empty_text_in_a_reply_does_not_end_the_run_of_all(cohort, tmp_path):
    (tmp_path / "server.yaml").write_text("")
    grid = AuditedGrid(EmptyTexts(client_app(lambda context: Hospital(cohort["alpha"])), 1), tmp_path, 9)
    (node,) = grid.get_node_ids()
    (reply_message,) = grid.send_and_receive([request_message("query", node, "greeting", {}, None)])
    assert not reply_message.has_error()
    asked, answered = verify(tmp_path)
    assert (asked["event"], answered["event"]) == ("asked", "answered")
    assert answered["bytes_in"] > len("text") + len("list")


def test_a_hospital_that_is_admitted_during_a_run_has_its_name_in_the_log(cohort, tmp_path):
    (tmp_path / "server.yaml").write_text("")
    grid = AuditedGrid(LocalGrid(client_app(lambda context: Hospital(cohort["alpha"])), 1), tmp_path, 9)
    (node,) = grid.get_node_ids()
    write_admitted(tmp_path / "admitted.yaml", {node: Admitted(name="alpha", key="k")})
    list(grid.send_and_receive([request_message("query", node, "greeting", {}, None)]))
    assert [entry["hospital"] for entry in verify(tmp_path)] == ["alpha", "alpha"]


def test_a_simulation_has_no_folder_and_asks_nobody(cohort, plan):
    grid = LocalGrid(client_app(lambda context: Hospital(cohort["alpha"])), 1)
    members, _ = wait_for_clients(grid, ["alpha"], told=Proposal(plan=plan).job())
    assert [member.name for member in members] == ["alpha"]
