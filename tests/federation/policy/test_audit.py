"""The log of a node and of a server: complete, in order, and what was cut off or put in shows."""

import json

import pytest
from facts import refused

from fedmerge.federation.policy.audit import audit, audit_log, in_a_line, verify
from fedmerge.storage.chained_log import BrokenChain, ChainedLog


def cut(log, lines):
    """What somebody with the disk in his hands does: the last lines are gone, the rest is in order."""
    log.path.write_text("".join(log.path.read_text().splitlines(keepends=True)[:-lines]))


def test_a_node_and_a_server_have_one_and_no_other_folder(folder, tmp_path):
    audit(folder, "node started")
    assert audit_log(folder).path == folder / "records" / "audit.jsonl"
    server = tmp_path / "server"
    server.mkdir()
    (server / "server.yaml").write_text("")
    audit(server, "server started", code="1")
    assert json.loads((server / "audit.jsonl").read_text())["event"] == "server started"
    with refused("server's", "folder", "node's"):
        audit(tmp_path, "x")


def test_lines_cut_off_at_the_end_show_against_a_head_that_was_noted(folder):
    for number in range(3):
        head = audit(folder, "answered", run=number)
    audit(folder, "node stopped")
    assert len(verify(folder, head)) == 4
    cut(audit_log(folder), 2)
    assert len(verify(folder)) == 2  # in itself it is in order
    with pytest.raises(BrokenChain, match=head):
        verify(folder, head)


def test_a_line_that_was_changed_or_taken_out_shows(folder):
    for number in range(3):
        audit(folder, "refused", reason=f"no {number}")
    path = audit_log(folder).path
    text = path.read_text()
    path.write_text(text.replace("no 1", "no 7"))
    with refused("line 2", kind=BrokenChain):
        verify(folder)
    lines = text.splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with refused("line 2", kind=BrokenChain):
        verify(folder)


def test_a_decision_in_a_chain_of_its_own_is_missing_in_the_log(asker, proposal):
    """Whoever writes the file anew with a chain in order has not written the audit log."""
    name = asker.approve(proposal)
    verify(asker.folder)
    (true,) = asker.approvals.log.entries()
    forged = {"proposal": name, "decided": "approved", "by": "Eve", "audited": true["audited"]}
    ChainedLog(asker.approvals.log.path).append(forged)
    with refused("line 2", "audit log", kind=BrokenChain):
        verify(asker.folder)


def test_a_line_for_people_steers_no_terminal(folder):
    audit(folder, "refused", reason="\x1b[2J\nnew line", proposal="a" * 64)
    (entry,) = audit_log(folder).entries()
    line = in_a_line(entry)
    assert "\x1b" not in line
    assert "\n" not in line
    assert "a" * 16 + "…" in line
