"""Starting a folder's programs: what a slow start says, and how one ends that is told to."""

import os
import signal

import pytest

from fedmerge.federation.deployment import serving
from fedmerge.federation.deployment.processes import Program, Programs
from fedmerge.federation.deployment.server_folder import ServerFolder


def test_a_start_says_what_it_waits_for(tmp_path, monkeypatch):
    """The SuperLink, then the gate; a program that answers late is not given up."""
    folder = ServerFolder.make(
        tmp_path / "server", ["127.0.0.1"], "127.0.0.1", serving.free_port(), serving.free_port()
    )
    monkeypatch.setattr(Program, "__init__", lambda self, command, *rest: setattr(self, "command", command))
    monkeypatch.setattr(Program, "__exit__", lambda *_: None)
    monkeypatch.setattr(Programs, "start", lambda self, command, *rest: Program(command))
    asked = []

    def wait(self, ready, patience, what):
        asked.append((said[-1], patience))

    monkeypatch.setattr(Program, "wait_until", wait)
    said = []
    with Programs() as programs:
        serving.start_server(programs, folder, said.append)
    assert said == ["the SuperLink is starting", "the gate is starting"]
    assert asked == [(words, serving.START) for words in said]
    assert serving.START >= 300  # imports take minutes where ten programs share two cores


def test_sigterm_during_a_start_ends_what_was_started():
    ended, before = [], signal.getsignal(signal.SIGTERM)

    def start():
        with serving.ended_by_sigterm(), Programs() as programs:
            programs.callback(ended.append, "programs")
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        start()
    assert left.value.code == 128 + signal.SIGTERM
    assert ended == ["programs"]
    assert signal.getsignal(signal.SIGTERM) == before
