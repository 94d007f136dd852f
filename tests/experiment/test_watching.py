"""The state of a deployment is told from its folders alone: new, at work, after a crash, with all down."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from facts import refused
from typer.testing import CliRunner

from fedmerge import run
from fedmerge.cli.app import app
from fedmerge.cli.deployment.state_text import state_text
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.undecided import undecided
from fedmerge.experiment.folder.state import RunState
from fedmerge.federation.admission import Admitted, write_admitted
from fedmerge.federation.deployment.links import Task
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.processes import Programs
from fedmerge.federation.deployment.runs import note, runs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import STARTED, at_service
from fedmerge.federation.policy.audit import audit_log
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.storage.chained_log import ChainedLog
from fedmerge.storage.files import write_sealed
from fedmerge.workflows import run as module
from fedmerge.workflows import watching
from fedmerge.workflows.deployed import _told
from fedmerge.workflows.watching import at_work, node_status, server_status, status_of

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def server(tmp_path):
    folder = ServerFolder.make(tmp_path / "server", ["127.0.0.1"], "127.0.0.1", 29_001, 29_002)
    write_admitted(
        folder.admitted, {7: Admitted(name="north", key="k"), 3: Admitted(name="harbour", key="k")}
    )
    return folder


@pytest.fixture
def node(tmp_path, server):
    cohort = tmp_path / "north.yaml"
    cohort.write_text("sites: []")
    return NodeFolder.make(tmp_path / "node", "north", cohort, "127.0.0.1:29001", server.authority)


def test_a_new_server_was_never_started(server):
    found = server_status(server)
    assert (found["up"], found["said"], found["runs"]) == (False, "it was never started", [])
    assert [(each["name"], each["status"]) for each in found["hospitals"]] == [
        ("harbour", "unknown"), ("north", "unknown"),
    ]  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert {"server.crt", "ca.crt"} <= {each["what"] for each in found["expiries"]}
    assert min(each["days"] for each in found["expiries"]) > 60


def test_it_is_up_while_all_of_its_programs_live(server):
    with at_service(server.path) as programs:
        first = programs.start([*SLEEPS, "1"], os.environ, server.path / "a.log")
        assert server_status(server)["up"]
        first.process.kill()
        first.process.wait()
        found = server_status(server)
        assert not found["up"]
        assert "has ended" in found["said"]
        with refused(server.path, "fedmerge deployment status"), at_service(server.path):
            pass


def test_programs_that_outlived_their_start_are_said_and_ended_by_the_next(server):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fedmerge.federation.deployment.serving import at_service\n"
        f"with at_service(Path({str(server.path)!r})) as programs:\n"
        f"    programs.start({SLEEPS!r}, os.environ, Path({str(server.path / 'x.log')!r}))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    found = server_status(server)
    assert found["up"]
    assert "outlived" in found["said"]
    with at_service(server.path) as programs:
        assert isinstance(programs, Programs)
        assert not any(server_status(server)["programs"].values())


def test_a_number_that_another_process_has_now_is_left_alone(server):
    with subprocess.Popen(SLEEPS) as bystander:
        (server.path / STARTED).parent.mkdir()
        known = {"pid": bystander.pid, "born": "another boot+1", "host": os.uname().nodename}
        (server.path / STARTED).write_text(json.dumps({"start": known, "programs": {"x": known}}))
        with at_service(server.path):
            time.sleep(0.2)
            assert bystander.poll() is None
        bystander.kill()


def killed_run(experiment, folder, monkeypatch):
    """A run that was killed after its first round of two."""
    write = RoundJournal.write

    def and_die(journal, *given):
        write(journal, *given)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(RoundJournal, "write", and_die)
        patch.setattr(module, "write_report", lambda result, **_: None)
        pid = os.fork()
        if pid == 0:
            try:
                run(experiment, out=folder)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


def test_runs_are_told_the_latest_first_with_how_they_go_on(server, experiment, tmp_path, monkeypatch):
    killed_run(experiment, tmp_path / "a", monkeypatch)
    note(server.path, 11, tmp_path / "a")
    note(server.path, 12, tmp_path / "nothing there")
    (server.path / "runs" / "13.json").write_text("{")  # a crash left half of it
    assert [begun.run for begun in runs(server.path)] == [11, 12]
    last, first = server_status(server)["runs"]
    assert (last["run"], last["state"]) == (12, "failed")
    assert (first["words"], first["progress"]) == ("killed in round 2 of 2", 0.5)
    assert first["again"] == f"fedmerge deployment run {server.path} --resume {tmp_path / 'a'}"
    assert at_work(server_status(server)) == []
    with monkeypatch.context() as patch:  # the SuperLink knows that it was stopped, the run does not
        patch.setattr(watching, "tasks", lambda database: {11: Task(11, "finished:stopped", "", None)})
        assert server_status(server)["runs"][1]["words"] == "stopped in round 2 of 2"
    note(server.path, 10, tmp_path / "a")  # as one who resumes the folder does; numbers are drawn
    (server.path / "runs" / "11.json").unlink()
    write_sealed(
        server.path / "runs" / "11.json",
        {"run": 11, "folder": str(tmp_path / "a"), "at": "2026-01-01T00:00:00Z"},
    )
    earlier = {run["run"]: run for run in server_status(server)["runs"]}
    assert (earlier[11]["state"], earlier[11]["words"]) == ("resumed", "resumed as run 10")
    assert (earlier[11]["again"], earlier[10]["words"]) == ("", "killed in round 2 of 2")
    said = CliRunner().invoke(app, ["deployment", "status", str(server.path)])
    assert said.exit_code == 0
    assert "killed in round 2 of 2" in said.output
    assert "never started" in said.output


def test_whose_approval_a_run_waits_for_is_said_while_it_waits(server, tmp_path, monkeypatch):
    """The last answer of each hospital in this run counts; being asked again is no answer."""
    log = audit_log(server.path)

    def came(event, hospital, run=12, **more):
        log.append({"event": event, "hospital": hospital, "run": run, "kind": "query"} | more)

    waits = {"reason": "north: this hospital has not approved the experiment 0a1b: its people look at it"}
    came("refused", "harbour", run=11, **waits)
    came("refused", "north", **waits)
    came("refused", "old-mill", **waits)
    came("refused", "riverside", reason="its policy wants more noise")
    came("asked", "old-mill")
    came("answered", "north")
    with log.path.open("ab") as file:
        file.write(b'{"event": "refused", "hospi')  # a crash cut it off
    assert undecided(server.path, 12) == ["old-mill"]
    assert undecided(server.path, 13) == []
    note(server.path, 12, tmp_path / "begun")
    (tmp_path / "begun").mkdir()
    assert server_status(server)["waiting"] == []  # its end is not known to be open
    monkeypatch.setattr(watching, "tasks", lambda database: {12: Task(12, "running", "", None)})
    found = server_status(server)
    assert found["waiting"] == ["old-mill"]
    assert "waiting for approval by: old-mill" in state_text(found)
    assert _told(server.path, 12, tmp_path / "begun", "running") == "waiting for approval by old-mill"
    assert _told(server.path, 13, tmp_path / "begun", "running") == "running"
    assert _told(server.path, 12, tmp_path / "begun", "pending") == "pending"


def test_run_says_what_goes_on_when_it_changes_also_back_again(server, monkeypatch):
    """Running, waiting, running: three lines, and no more while nothing changes."""

    def deployed(folder, config, *, progress, **given):
        for status in ("running", "running", "waiting for approval by north", "running"):
            progress(status)
        raise FedMergeError("enough")

    monkeypatch.setattr("fedmerge.workflows.deployed.run_deployed", deployed)
    said = CliRunner().invoke(app, ["deployment", "run", str(server.path), "quickstart"])
    told = [line.removeprefix("the run is ") for line in said.output.splitlines() if "the run is" in line]
    assert told == ["running", "waiting for approval by north", "running"]


def test_a_node_tells_what_its_own_records_say(node):
    assert node_status(node.path)["asked"] is None
    log = ChainedLog(node.path / "records" / "audit.jsonl")
    log.append({"event": "node started"})
    waits = {"event": "waits for approval", "kind": "query", "group": "greeting", "run": 5, "reason": "ask"}
    log.append(waits)
    log.append(waits)
    asks = f"an experiment waits for approval: fedmerge deployment requests {node.path}"
    assert asks in state_text(status_of(node.path))
    log.append({"event": "decision", "decided": "refused"})
    assert asks not in state_text(status_of(node.path))
    log.append(waits)
    log.append({"event": "answered", "kind": "query", "group": "greeting", "run": 5})
    log.append({"event": "refused", "kind": "train", "group": "1", "run": 5, "reason": "not approved"})
    found = status_of(node.path)
    assert (found["kind"], found["hospital"]) == ("node", "north")
    events = [(job["event"], job["times"]) for job in found["jobs"]]
    assert events == [("waits for approval", 3), ("answered", 1), ("refused", 1)]
    assert [job["reason"] for job in found["refused"]] == ["not approved"]
    said = CliRunner().invoke(app, ["deployment", "status", str(node.path)])
    assert "not approved" in said.output
    assert "waits for approval 5 query greeting (3 times)" in said.output
    assert asks not in said.output
    text = log.path.read_text().replace("not approved", "all is well")
    log.path.write_text(text)
    assert "not what was written there" in node_status(node.path)["records"]


def test_another_folder_is_a_sentence(tmp_path):
    with refused("node's", "folder"):
        status_of(tmp_path)


def test_looking_writes_nothing(server, node):
    def everything(folder):
        return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}

    before = everything(server.path), everything(node.path)
    server_status(server), node_status(node.path)
    assert (everything(server.path), everything(node.path)) == before


def test_what_is_left_follows_from_the_rounds_so_far_and_is_not_guessed_after_a_resume(tmp_path):
    """Two of eight rounds in 60 s leave 180 s; where the run stood still in between, nothing is said."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    state = RunState(tmp_path, "running", stage="rounds", round=3, rounds=8, started=began.isoformat())
    now = began + timedelta(seconds=60)
    assert watching._left(state, now) == 180
    others = ({"resumed": 1}, {"state": "killed"}, {"stage": "fusion"}, {"round": 1})
    assert [watching._left(replace(state, **other), now) for other in others] == [None] * 4
