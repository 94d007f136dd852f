"""The state of a deployment, read from its folders: during a run, after a crash, at any time."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.undecided import PENDING, undecided
from fedmerge.experiment.folder.state import RunState, state_of
from fedmerge.federation.deployment.certificates import expiries
from fedmerge.federation.deployment.links import STOPPED, Link, Task, links, tasks
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.processes import started
from fedmerge.federation.deployment.runs import StartedRun, runs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import STARTED
from fedmerge.schema.validation import is_there
from fedmerge.storage.chained_log import BrokenChain, ChainedLog

RESUMED = "resumed"  # the state of a submitted run whose folder another went on with
SHOWN = 20  # runs, the latest; failures of a run, the latest
AT_WORK = ("pending", "starting", "running")  # states of a run, in the SuperLink's words
WAITS = "waits for approval"  # an event in a node's audit log
Told = dict[str, Any]


def status_of(folder: Path) -> Told:
    """Return the state of a server's or a node's folder, as JSON. Raises FedMergeError for another folder."""
    return server_status(ServerFolder(folder)) if is_there(folder / "server.yaml") else node_status(folder)


def server_status(server: ServerFolder) -> Told:
    """Return a server's state: programs, hospitals' last signs of life, runs with failures, expiries."""
    database = server.path / "superlink.db"
    known, seen = links(database), tasks(database)
    submitted = runs(server.path)
    latest = {begun.folder: begun.run for begun in submitted}  # a resumed run has a folder and two numbers
    found = [
        _run(begun, seen.get(begun.run), server.path, latest[begun.folder]) for begun in submitted[-SHOWN:]
    ]
    hospitals = [
        _hospital(hospital.name, node, known.get(node), found)
        for node, hospital in server.hospitals().items()
    ]
    settings = server.settings
    return {
        "kind": "server",
        "folder": str(server.path),
        "at": _text(datetime.now(UTC)),
        "address": f"{settings.host}:{settings.port}",
        **_programs(server.path),
        "hospitals": sorted(hospitals, key=lambda hospital: hospital["name"]),
        "waiting": _waiting(server.path, found),
        "runs": found[::-1],
        "expiries": _expiries(server.path),
    }


def node_status(folder: Path) -> Told:
    """Return a node's state: its programs, and by its own records the jobs asked of it and refused."""
    node = NodeFolder(folder)
    log = node.path / "supernode.log"
    return {
        "kind": "node",
        "folder": str(node.path),
        "at": _text(datetime.now(UTC)),
        "hospital": node.settings.site,
        "address": node.settings.server,
        **_programs(node.path),
        "last words": _text(datetime.fromtimestamp(log.stat().st_mtime, UTC)) if log.is_file() else None,
        **_records(node.path),
        "expiries": _expiries(node.path),
    }


def logs_of(folder: Path) -> list[Path]:
    """Return the log files of a server's or a node's folder. Raises FedMergeError for another folder."""
    if is_there(folder / "server.yaml"):
        return [folder / "superlink.log", folder / "gate.log"]
    return [NodeFolder(folder).path / "supernode.log"]


def at_work(status: Told) -> list[int]:
    """Return the numbers of the runs that the SuperLink has not ended yet."""
    return [run["run"] for run in status["runs"] if run["superlink"] in AT_WORK]


def _programs(folder: Path) -> Told:
    """Say whether a folder's server or node is up: all programs of its last start are alive."""
    by, programs = started(folder / STARTED)
    alive = {name: program.alive for name, program in programs.items()}
    up = bool(alive) and all(alive.values())
    if by is None:
        said = "it was never started"
    elif not by.here:
        said = f"it was started on {by.host}: ask there"
    elif up and by.alive:
        said = ""
    elif up:
        said = "its programs outlived `fedmerge deployment start`, which was killed: start it again"
    else:
        said = "it is down: " + ", ".join(f"{name} has ended" for name, lives in alive.items() if not lives)
    return {"up": up, "programs": alive, "said": said}


def _waiting(server: Path, found: list[Told]) -> list[str]:
    """Return the hospitals whose approval the latest run waits for, or went on without."""
    latest = found[-1:]
    names = {row["site"] for run in latest for row in run["waiting"]}
    for run in latest:
        names |= set(undecided(server, run["run"])) if run["superlink"] in AT_WORK else set()
    return sorted(names)


def _hospital(name: str, node: int, link: Link | None, found: list[Told]) -> Told:
    now = datetime.now(UTC)
    latest = found[-1] if found else None
    heard = link.heard if link else None
    return {
        "name": name,
        "node": node,
        "status": link.status if link else "unknown",
        "heard": _text(heard),
        "ago": round((now - heard).total_seconds()) if heard else None,
        "since": _text(link.since) if link else None,
        "round": latest["heard"].get(name) if latest else None,
        "failures": sum(run["by hospital"].get(name, 0) for run in found[-1:]),
    }


def _run(begun: StartedRun, task: Task | None, server: Path, latest: int) -> Told:
    """Return one submitted run; of several with one folder, only the ``latest`` has the folder's state."""
    told: Told = {"run": begun.run, "folder": str(begun.folder), "submitted": begun.at}
    flower = task.status if task else "unknown"
    told["superlink"] = flower
    if latest != begun.run:
        went_on = state_as_json(RunState(begun.folder, RESUMED))
        return told | went_on | {"words": f"{RESUMED} as run {latest}", "again": ""}
    state = state_of(begun.folder)
    if state is None:
        ended = flower.startswith("finished") or not begun.folder.is_dir()
        word = "failed" if ended else flower
        state = RunState(begun.folder, word, (task.details if task and ended else "")[:1000])
    if state.state == "killed" and flower == STOPPED:
        state = replace(state, state="stopped", reason="it was told to stop")
    return told | state_as_json(state) | {"again": _again(state, server)}


def state_as_json(state: RunState) -> Told:
    """Return a run's state as JSON."""
    failures = [
        {key: row.get(key) for key in ("round", "phase", "site", "reason", "then")} for row in state.failures
    ]
    return {
        "state": state.state,
        "words": state.words,
        "reason": state.reason,
        "stage": state.stage,
        "round": state.round,
        "rounds": state.rounds,
        "progress": _progress(state),
        "left": _left(state, datetime.now(UTC)),
        "part": state.part,
        "started": state.started,
        "changed": state.changed,
        "resumed": state.resumed,
        "heard": state.heard,
        "by hospital": dict(Counter(row["site"] for row in failures)),
        "waiting": [row for row in failures if PENDING in str(row["reason"])][-SHOWN:],
        "failures": failures[-SHOWN:],
        "failed": len(failures),
    }


def _progress(state: RunState) -> float | None:
    """Return the share of the rounds that are done."""
    if state.state == "finished":
        return 1.0
    if state.rounds and state.round is not None:
        return round((state.round - 1) / state.rounds, 4)
    return 1.0 if state.rounds and state.stage else None


def _left(state: RunState, now: datetime) -> float | None:
    """Return the seconds that the rounds still take at their rate so far; None where that is not known.

    A run that was resumed has no rate: how long it stood still is not in its folder.
    """
    share = _progress(state)
    if state.state != "running" or state.stage != "rounds" or state.resumed or not share or not state.started:
        return None
    return round((now - datetime.fromisoformat(state.started)).total_seconds() * (1 - share) / share)


def _again(state: RunState, server: Path) -> str:
    if not state.goes_on:
        return ""
    where, place = shlex.quote(str(server)), shlex.quote(str(state.folder))
    return f"fedmerge deployment run {where} --resume {place}"


def _expiries(folder: Path) -> list[Told]:
    """Return when certificates end; a file that cannot be read becomes an entry with its error."""
    try:
        found = expiries(folder)
    except FedMergeError as error:
        return [{"what": str(error), "until": "unknown", "days": 0, "then": ""}]
    now = datetime.now(UTC)
    return [
        {"what": e.what, "until": f"{e.until:%Y-%m-%d}", "days": (e.until - now).days, "then": e.way_out}
        for e in found
    ]


def _records(folder: Path) -> Told:
    """Return a node's jobs, refused jobs and last request from its audit log; or why it cannot be read."""
    try:
        entries = ChainedLog(folder / "records" / "audit.jsonl").entries()
    except (BrokenChain, OSError) as error:
        return {"asked": None, "waits": False, "jobs": [], "refused": [], "records": str(error)}
    jobs = [entry for entry in entries if "kind" in entry]
    refused = [entry for entry in jobs if entry.get("event") == "refused"]
    since = [entry.get("event") for entry in entries if "kind" in entry or entry.get("event") == "decision"]
    return {
        "asked": jobs[-1]["at"] if jobs else None,
        "waits": since[-1:] == [WAITS],
        "jobs": _together(jobs)[-SHOWN:],
        "refused": _together(refused)[-SHOWN:],
        "records": f"{len(entries)} entries",
    }


def _together(entries: Sequence[Mapping[str, Any]]) -> list[Told]:
    """Return entries for people; equal ones in a row are one, with the time of the last and their number."""
    found: list[Told] = []
    for entry in map(_entry, entries):
        same = bool(found) and {**found[-1], "at": "", "times": 0} == {**entry, "at": "", "times": 0}
        times = found.pop()["times"] if same else 0
        found.append(entry | {"times": times + 1})
    return found


def _entry(entry: Mapping[str, Any]) -> Told:
    keys = ("at", "event", "run", "kind", "group", "reason")
    return {key: entry[key] for key in keys if entry.get(key) is not None}


def _text(when: datetime | None) -> str | None:
    return None if when is None else f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
