"""What goes on in the folder of a run or a study: read from its files, and nothing is written."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedmerge.engine.store import states_in
from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.folder.state import RunState, journal_rows, state_of
from fedmerge.schema.validation import is_folder, is_there

Told = dict[str, Any]
SHOWN = 20  # failures, and jobs at work
RECENT = 5  # rounds whose seconds say how long the next ones take
QUIET = 600.0  # seconds without a change after which the page says so


def live_status(folder: Path) -> Told:
    """Return the state of the run or study in a folder, as JSON.

    kind: "run" or "study". state, words: of it, the second for people. done, jobs: rounds of the federation
    at work, or jobs of a study. left: seconds, estimated from those before; None where nothing says. running:
    what is at work. curves: of each round, for each federation at work. failures: the latest.
    Raises FedMergeError for a folder that is neither's.
    """
    if not is_there(folder):
        raise FedMergeError(f"there is no '{short(folder)}': give the folder of a run or a study.")
    if is_folder(folder):
        if (folder / "study.yaml").is_file() and (folder / "plan.json").is_file():
            return _study(folder)
        if (found := state_of(folder)) is not None:
            return _run(found)
    if (folder / "server.yaml").is_file():
        raise FedMergeError(
            f"'{short(folder)}' is the folder of a deployment's server: 'fedmerge deployment watch' shows it."
        )
    raise FedMergeError(
        f"'{short(folder)}' is neither a run (config.yaml and run.json) nor a study (study.yaml and "
        "plan.json): give the folder that 'fedmerge run' or 'fedmerge bench' writes."
    )


def _run(found: RunState) -> Told:
    rounds = found.folder / found.part / "journal" / "rounds"
    at_work = found.state == "running"
    done = (found.round or 1) - 1 if found.stage == "rounds" else found.rounds
    left = _rounds_left(rounds, (found.rounds or 0) - (done or 0)) if found.stage == "rounds" else None
    return _told(
        "run",
        found.folder,
        state=found.state,
        words=found.words,
        reason=found.reason,
        goes_on=found.goes_on,
        started=found.started,
        what="rounds",
        done=0 if found.state != "finished" and not found.stage else done,
        jobs=found.rounds,
        left=left if at_work else None,
        running=[{"what": found.part or "start", "words": found.words}] if at_work else [],
        curves=[{"name": found.part, "rows": found.history}] if found.history else [],
        failures=found.failures[-SHOWN:],
        changed=_newest([found.folder / "run.json", rounds, rounds.parent]),
    )


def _study(folder: Path) -> Told:
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    jobs: list[str] = plan["jobs"]
    labels = dict(zip(jobs, plan.get("labels", jobs), strict=True))
    states = states_in(folder, jobs)
    ended = {job: _record(folder / "jobs" / job) for job in jobs if states[job] != "missing"}
    left = [job for job in jobs if states[job] == "missing"]
    parts = {job: folder / "jobs" / f".{job}.part" for job in left}
    begun = {job: part for job, part in parts.items() if part.is_dir()}
    failed = [job for job in jobs if states[job] == "failed"]
    running = [_job(labels[job], part) for job, part in list(begun.items())[:SHOWN]]
    changed = _newest([folder / "plan.json", folder / "jobs", *begun.values(), *_journals(begun.values())])
    state = "unfinished" if left else "finished"
    told_failed = f", {len(failed)} failed" if failed else ""
    return _told(
        "study",
        folder,
        state=state,
        words=f"{len(jobs) - len(left)} of {len(jobs)} jobs ended{told_failed}",
        what="jobs",
        done=len(jobs) - len(left),
        jobs=len(jobs),
        left=_jobs_left([each.get("seconds") for each in ended.values()], len(left), len(begun)),
        running=[{"what": each["name"], "words": each["words"]} for each in running],
        curves=[{"name": each["name"], "rows": each["rows"]} for each in running if each["rows"]],
        failures=[
            {"site": labels[job], "reason": ended[job].get("reason", ""), "then": "left out"}
            for job in failed[-SHOWN:]
        ],
        changed=changed,
    )


def _told(kind: str, folder: Path, *, changed: float, **more: Any) -> Told:
    """Return a state with every key that the page reads, and how long ago the folder changed."""
    ago = max(time.time() - changed, 0.0) if changed else None
    waits = (
        ago is not None and ago > QUIET and more["state"] not in ("finished", "failed", "stopped", "killed")
    )
    empty: Told = {"reason": "", "goes_on": "", "started": "", "left": None}
    return empty | {"kind": kind, "folder": str(folder), "ago": ago, "quiet": waits} | more


def _job(label: str, part: Path) -> Told:
    """Return a job at work: its label, the rounds so far, and where it stands in words."""
    rows = [row for journal in _journals([part]) for row in journal_rows(journal.parent)]
    last = max((row["round"] for row in rows), default=None)
    return {"name": label, "rows": rows, "words": "at work" if last is None else f"round {last} is done"}


def _journals(parts: Iterable[Path]) -> list[Path]:
    """Return the folders of rounds beneath working folders."""
    return [
        found for part in parts for pattern in ("", "*/") for found in part.glob(f"{pattern}journal/rounds")
    ]


def _record(job: Path) -> Told:
    with suppress(OSError, ValueError):
        found = json.loads((job / "job.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _rounds_left(rounds: Path, number: int) -> float | None:
    """Return the seconds of so many rounds, each as long as the middle one of the latest."""
    ends = sorted(_newest([path]) for path in rounds.glob("[0-9]*.json"))[-RECENT - 1 :]
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    return statistics.median(gaps) * number if gaps else None


def _jobs_left(seconds: Sequence[Any], left: int, at_once: int) -> float | None:
    """Return the seconds of the jobs that are left, each as long as the mean of those that have ended."""
    known = [float(each) for each in seconds if isinstance(each, int | float)]
    return statistics.fmean(known) * left / max(at_once, 1) if known and left else None


def _newest(paths: Iterable[Path]) -> float:
    """Return when the newest of these was changed, in seconds since 1970; 0 where none is there."""
    found = 0.0
    for path in paths:
        with suppress(OSError):
            found = max(found, path.stat().st_mtime)
    return found
