"""A run that somebody stops says so in its folder: who, and when; what ended otherwise stays as it is."""

import os
import subprocess
import sys
import threading

import pytest
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.run_manifest import CONFIG, RunManifest, at_work
from fedmerge.experiment.folder.state import state_of
from fedmerge.federation.deployment.flower import Flower
from fedmerge.federation.deployment.links import STOPPED, Task
from fedmerge.federation.deployment.runs import note
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import audit_log
from fedmerge.storage.living import Process, process
from fedmerge.workflows import stopping
from fedmerge.workflows.stopping import mark_stopped, stop_deployed


@pytest.fixture
def begun(tmp_path):
    """A function that writes a run's folder with some fields of its manifest, and returns the folder."""

    def make(**fields):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / CONFIG).write_text("seeds: [0]\n")
        known = {"config": "", "data": {}, "sources": None, "in_memory": False, "device": "cpu"}
        known |= {"threads": 1, "versions": {}, "started": "2026-03-01T12:00:00+00:00"}
        RunManifest(**known | fields).write(folder)
        return folder

    return make


def gone():
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        return process(child.pid)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_run_whose_process_flower_ended_was_stopped_by_somebody(begun, state):
    folder = begun(state=state, process=gone())
    assert mark_stopped(folder, "stopped by Ada")
    found = state_of(folder)
    assert (found.state, found.reason) == ("stopped", "stopped by Ada")
    assert found.goes_on.startswith("fedmerge run --resume")


@pytest.mark.parametrize(
    "fields", [{"finished": True, "state": "finished"}, {"state": "failed", "reason": "x"}]
)
def test_a_run_that_ended_by_itself_meanwhile_stays_as_it_is(begun, fields):
    folder = begun(**fields)
    before = (folder / "run.json").read_bytes()
    assert not mark_stopped(folder, "stopped by Ada")
    assert (folder / "run.json").read_bytes() == before


def test_nothing_is_written_while_its_process_lives(begun):
    folder = begun(process=process())
    with refused("process", os.getpid(), "work"):
        mark_stopped(folder, "stopped by Ada", patience=0.0)
    assert state_of(folder).state == "running"


def test_one_that_still_writes_its_tables_is_waited_for(begun):
    """A run writes that it was stopped, and then its tables, before it leaves its folder."""
    folder = begun(state="stopped", reason="it was told to stop")
    inside, leave = threading.Event(), threading.Event()

    def tables():
        with at_work(folder):
            inside.set()
            leave.wait()

    writer = threading.Thread(target=tables)
    writer.start()
    inside.wait()
    with refused("somebody", "work"):
        mark_stopped(folder, "stopped by Ada", patience=0.0)
    threading.Timer(0.2, leave.set).start()
    assert mark_stopped(folder, "stopped by Ada")
    assert state_of(folder).reason == "stopped by Ada"
    writer.join()


def test_a_run_that_began_nothing_needs_no_mark(tmp_path):
    assert not mark_stopped(tmp_path / "nothing there", "stopped by Ada")


def test_the_audit_log_has_who_stopped_it_before_the_superlink_is_told(begun, tmp_path, monkeypatch):
    server = ServerFolder.make(tmp_path / "server", ["127.0.0.1"], "127.0.0.1", 29_001, 29_002)
    folder = begun(process=Process(pid=1, born="another boot", host=os.uname().nodename))
    note(server.path, 12, folder)
    told = []

    def stop(flower, run):
        told.append((run, audit_log(server.path).entries()[-1]))

    monkeypatch.setattr(Flower, "stop", stop)
    monkeypatch.setattr(stopping, "now", lambda: "2026-03-01T12:00:07+00:00")
    reason = stop_deployed(server, 12, " Ada ")
    assert reason == state_of(folder).reason == "stopped by Ada at 2026-03-01T12:00:07+00:00"
    ((run, entry),) = told
    assert (run, entry["event"], entry["run"], entry["by"]) == (12, "run told to stop", 12, "Ada")
    assert len(told) == 1

    def refuse(flower, run):
        raise FedMergeError(f"run {run} has ended")

    monkeypatch.setattr(Flower, "stop", refuse)
    with refused("run", "12", "ended"):
        stop_deployed(server, 12, "Ada")
    monkeypatch.setattr(stopping, "tasks", lambda database: {12: Task(12, STOPPED, "", None)})
    assert stop_deployed(server, 12, "Eve").startswith("stopped by Eve")  # the first left before the end
    with refused("who", "stops"):
        stop_deployed(server, 12, " ")
