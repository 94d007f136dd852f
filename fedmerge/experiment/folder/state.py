"""The state of a run, read from its folder alone, however the run ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fedmerge.experiment.folder.run_manifest import CONFIG, NAME, RunManifest
from fedmerge.experiment.kinds import EVALUATION, FINE_TUNE, ROUNDS, TRAINING
from fedmerge.storage.files import Damaged, read_sealed

ENDED = ("finished", "failed", "stopped", "killed")
Row = dict[str, Any]


@dataclass(frozen=True)
class RunState:
    """The state of a run: ``running``, one of ``ENDED``, or ``unknown``, where this machine cannot tell.

    stage: what it does, or did last: ``rounds``, ``fine-tune``, ``evaluation``. round: the
    current one, of ``rounds`` in all. part: its federation's folder, with the seed. failures: those of
    hospitals, from the journal. heard: for each hospital, the last round in which its answer counted.
    changed: when its run manifest or journal was last written. history: rows of the rounds of ``part``.
    """

    folder: Path
    state: str
    reason: str = ""
    stage: str = ""
    round: int | None = None
    rounds: int | None = None
    part: str = ""
    started: str = ""
    changed: str = ""
    seconds: float = 0.0
    resumed: int = 0
    failures: list[Row] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)

    @property
    def words(self) -> str:
        """State and stage in words, as in ``killed in round 3 of 5``."""
        if self.state == "finished" or not self.stage:
            return self.state
        where = f"round {self.round} of {self.rounds}" if self.stage == ROUNDS else self.stage
        return f"{self.state} in {where}"

    @property
    def goes_on(self) -> str:
        """The command that resumes the run; "" where it is running, finished or unknown."""
        again = self.state in ("failed", "stopped", "killed")
        return f"fedmerge run --resume {shlex.quote(str(self.folder))}" if again else ""


def state_of(folder: Path) -> RunState | None:
    """Return the state of the run in a folder; None where there is no run."""
    if not (folder / CONFIG).is_file() or not (folder / NAME).is_file():
        return None
    changed = _changed(folder)
    try:
        begun = RunManifest.model_validate(read_sealed(folder / NAME))
    except (Damaged, ValueError, OSError):
        return RunState(folder, "unknown", f"{NAME} is damaged", changed=changed)
    state, reason = _state(begun)
    config = _config(folder)
    journal = _latest(folder, config)
    rounds = _planned(config)
    place = _stage(journal, rounds) if state != "finished" else ("", None)
    bodies = list(_rounds(journal)) if journal else []
    rows = [row for body in bodies for row in body["history"]]
    return RunState(
        folder,
        state,
        reason,
        place[0],
        place[1],
        rounds,
        str(journal.parent.relative_to(folder)) if journal else "",
        begun.started,
        changed,
        begun.seconds,
        len(begun.resumed),
        [failure for body in bodies for failure in body["failures"]],
        {row["site"]: row["round"] for row in rows if row.get("phase") == "train"},
        rows,
    )


def states(root: Path) -> list[RunState]:
    """Return the runs at or beneath a folder, by name, those of a study's jobs included."""
    folders = sorted({path.parent for path in [root / NAME, *root.rglob(NAME)] if path.is_file()})
    return [found for folder in folders if (found := state_of(folder)) is not None]


def _state(begun: RunManifest) -> tuple[str, str]:
    if begun.finished:
        return "finished", ""
    if begun.state != "running":
        return begun.state, begun.reason
    if begun.process is None:
        return "unknown", "it does not say which process began it"
    if begun.process.alive:
        return "running", ""
    if not begun.process.here:
        return "unknown", f"it was begun on {begun.process.host}: ask there"
    return "killed", "its process is gone, and did not say why"


def _config(folder: Path) -> Row:
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _planned(config: Row) -> int | None:
    try:
        return int(config["training"]["rounds"])
    except (ValueError, KeyError, TypeError):
        return None


def _latest(folder: Path, config: Row) -> Path | None:
    """Return the journal of the federation that was begun last; None before the first.

    Seeds, and hospitals left out, come in the configuration's order. File times say nothing: a clock may be
    set back, and a folder copied.
    """
    try:
        seeds = [f"seed-{seed}" for seed in config["seeds"]]
        names = [f"without-{site['name']}" for site in config["cohort"]["sites"]]
    except (KeyError, TypeError):
        seeds, names = [], []

    def place(journal: Path) -> tuple[int, int]:
        name, seed = journal.parent.name, journal.parent.parent.name
        return _index(seeds, seed), _index(names, name)

    return max(folder.glob("seed-*/*/journal"), key=place, default=None)


def _index(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _stage(journal: Path | None, rounds: int | None) -> tuple[str, int | None]:
    """Return the stage, and the round, that follow what the journal holds."""
    if journal is None:
        return (ROUNDS, 1) if rounds else ("", None)
    done = len(list(_rounds(journal)))
    if rounds and done < rounds and not (journal / TRAINING / f"{ROUNDS}.json").is_file():
        return ROUNDS, done + 1
    return (EVALUATION if (journal / TRAINING / f"{FINE_TUNE}.json").is_file() else FINE_TUNE), None


def _rounds(journal: Path) -> Iterator[Row]:
    """Yield what the journal kept of each round, from the first on, as far as it can be read."""
    number = 1
    while (path := journal / "rounds" / f"{number:04d}.json").is_file():
        try:
            body = read_sealed(path)
        except (Damaged, OSError):
            return
        yield body
        number += 1


def journal_rows(journal: Path) -> list[Row]:
    """Return what each finished round of a journal measured, as far as it can be read."""
    return [row for body in _rounds(journal) for row in body["history"]]


def _touched(path: Path) -> float:
    try:
        return max(each.stat().st_mtime for each in [path, path / "rounds"] if each.exists())
    except (OSError, ValueError):
        return 0.0


def _changed(folder: Path) -> str:
    newest = max((_touched(path) for path in [folder / NAME, *folder.glob("seed-*/*/journal")]), default=0.0)
    return f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%dT%H:%M:%SZ}" if newest else ""


def partial_rows(root: Path) -> Iterator[str]:
    """Yield a sentence for each unfinished run beneath a folder, of which rows are missing."""
    for run in states(root):
        if run.state != "finished":
            goes_on = f"; {run.goes_on} goes on with it" if run.goes_on else ""
            missing = "not all of its rows are there"
            yield f"the run in '{run.folder}' is not finished ({run.words}): {missing}{goes_on}."
