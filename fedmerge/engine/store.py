"""The store of a graph's artifacts: a finished task is kept, an interrupted one counts for nothing.

    jobs/NAME/            one finished task: its files, job.json, and the marker ``done`` or ``failed``
    jobs/.NAME.part/      one that was begun; what an interrupted attempt left is swept away, or kept for the
    next

A task works in a folder of its own; when it has finished, one rename gives this folder, marker included, the
task's name.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fedmerge.errors import FedMergeError
from fedmerge.storage import manifest, own_files
from fedmerge.storage.files import (
    Damaged,
    DiskError,
    check_digest,
    check_writable,
    locked,
    make_folder,
    saying,
    write_json,
    write_text,
)

State = Literal["missing", "done", "failed", "dropped"]


class StoreStopped(FedMergeError):
    """The work had to stop; every finished task is kept."""


class Store:
    """The tasks in one folder. Raises StoreStopped where the folder cannot be made or written.

    kind: of the folder, as its manifest has it.
    """

    def __init__(self, folder: Path, kind: manifest.Kind = "study") -> None:
        self.folder, self.kind = folder, kind
        self.jobs = folder / "jobs"
        with said(folder):
            make_folder(folder)
            self.room = own_files.enter(folder, recording=True)
            make_folder(self.jobs)
            check_writable(folder)

    @contextmanager
    def locked(self, kept: Container[str] = ()) -> Iterator[None]:
        """Keep other processes out of this folder; the lock is freed however this process ends.

        kept: tasks whose next attempt goes on with the files of an interrupted one.
        """
        in_use = f"another process is at work in '{self.folder}': wait, stop it, or work in another."
        with locked(self.folder, in_use):
            with said(self.folder):
                manifest.begin(self.folder, self.kind)
            for left_over in self.jobs.glob(".*.part"):
                job = self.jobs / left_over.name[1:].removesuffix(".part")
                if not job.exists():  # it may have been listed under that name, but never renamed
                    with said(self.folder):
                        self.room.note(moved=[self.room.relative(job), self.room.relative(left_over)])
                if job.exists() or job.name not in kept:
                    self.room.remove_tree(left_over)
            yield

    def damaged(self, jobs: Iterable[str]) -> list[str]:
        """Remove finished jobs of which a file has changed since it was written; return sentences on them."""
        of: dict[str, list[str]] = {}
        for path in self.room.made():
            if path.startswith("jobs/"):
                of.setdefault(path.split("/")[1], []).append(path)
        found = []
        for job in (job for job in jobs if self.state(job) != "missing"):
            try:
                for path in of.get(job, []):
                    check_digest(self.folder / path, self.room.made()[path])
            except Damaged as damage:
                found.append(f"{damage} The job is done again if something needs it.")
                self._take_away(job)
        return found

    def state(self, job: str) -> State:
        """Whether a job is done, failed, done with its models dropped, or still to do."""
        return _state(self.jobs / job)

    def states(self, jobs: Iterable[str]) -> dict[str, State]:
        """The state of each of these jobs."""
        return states_in(self.folder, jobs)

    def part(self, job: str, *, keep: bool = False) -> Path:
        """Return a folder to work in. keep: with the files of an interrupted attempt, else empty."""
        folder = self.jobs / f".{job}.part"
        with said(self.folder):
            if not keep:
                self.room.remove_tree(folder)
            make_folder(folder)
            for marker in ("done", "failed"):  # of an attempt that was interrupted while it finished
                self.room.remove(folder / marker)
        return folder

    def finish(self, job: str, part: Path, record: dict[str, Any], marker: Literal["done", "failed"]) -> None:
        """Write the task's record and marker, and give the working folder the task's name: it now counts."""
        with said(self.folder):
            write_json(part / "job.json", record)
            write_text(part / marker, f"{record.get('reason', '')}\n")
        self.adopt(job, part)

    def adopt(self, job: str, part: Path) -> None:
        """Give a working folder with record and marker the task's name: it now counts."""
        with said(self.folder):
            self._take_away(job)
            self.room.move(part, self.jobs / job)

    def drop_models(self, job: str) -> None:
        """Delete a job's weights; its cards and numbers stay."""
        folder = self.jobs / job
        write_text(folder / "dropped", "")
        for file in folder.rglob("*.safetensors"):
            self.room.remove(file)

    def _take_away(self, job: str) -> None:
        """Delete a job's files; where its folder holds others, these are kept under another name."""
        folder = self.jobs / job
        if not self.room.remove_tree(folder):
            self.room.move(folder, self.jobs / f"{job}.kept-{secrets.token_hex(4)}")

    def read(self, job: str, name: str) -> Any:
        """Read a JSON file of a finished job."""
        return json.loads((self.jobs / job / name).read_text(encoding="utf-8"))


def states_in(folder: Path, jobs: Iterable[str]) -> dict[str, State]:
    """Return the state of each of these jobs in a study's folder, which need not exist; make nothing."""
    return {job: _state(folder / "jobs" / job) for job in jobs}


def _state(folder: Path) -> State:
    if (folder / "done").exists():
        return "dropped" if (folder / "dropped").exists() else "done"
    return "failed" if (folder / "failed").exists() else "missing"


@contextmanager
def said(folder: Path) -> Iterator[None]:
    """Turn a DiskError inside the block into StoreStopped, which says what it means for the work."""
    try:
        with saying(folder):
            yield
    except DiskError as error:
        if (lack := error.shortage) is not None:
            remedy = lack.remedy[0].upper() + lack.remedy[1:]
            raise StoreStopped(
                f"{lack.what}, so the work in '{folder}' stopped; every finished job is kept. {remedy} and "
                "give the same command again."
            ) from None
        raise StoreStopped(
            f"the folder '{folder}' cannot be written ({error.reason}): make it writable, or work in another."
        ) from None
