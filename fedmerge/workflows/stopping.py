"""``stop_deployed``: end a run of a deployment, and write into its folder who stopped it and when."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from pathlib import Path

from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.run_manifest import NAME, RunManifest, at_work, now
from fedmerge.federation.deployment.links import STOPPED, tasks
from fedmerge.federation.deployment.runs import runs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import audit
from fedmerge.storage.files import Damaged, read_sealed

DATABASE = "superlink.db"  # in the server's folder
PATIENCE = 300.0  # seconds for a run's process to end: it learns of its end with its next call or heartbeat
PAUSE = 0.5


def stop_deployed(server: ServerFolder, run: int, by: str, patience: float = PATIENCE) -> str:
    """Have the SuperLink end a run; return the reason that stands in the run's folder once it has ended.

    by: who stops it. The server's audit log has it before the SuperLink is told. Raises FedMergeError if the
    SuperLink does not take it, and if the run's process is still there after ``patience`` seconds.
    """
    if not by.strip():
        raise FedMergeError("--by is empty: say who stops the run.")
    reason = f"stopped by {by.strip()} at {now()}"
    audit(server.path, "run told to stop", run=run, by=by.strip())
    try:
        server.flower.stop(run)
    except FedMergeError:  # it has stopped it before, perhaps
        found = tasks(server.path / DATABASE).get(run)
        if found is None or found.status != STOPPED:
            raise
    for known in runs(server.path):
        if known.run == run:
            mark_stopped(known.folder, reason, patience)
    return reason


def mark_stopped(folder: Path, reason: str, patience: float = PATIENCE) -> bool:
    """Wait until nobody works on a run, then write that it was stopped, and why; return whether it was.

    Flower ends the process of a stopped run, which may not come to write anything. A run that finished, or
    failed, in the meantime stays as it is. Raises FedMergeError after ``patience`` seconds.
    """
    if _read(folder) is None:
        return False  # it was stopped before it began anything
    with ExitStack() as held:
        _enter(folder, held, time.monotonic() + patience)
        begun = _read(folder)
        if begun is None or begun.finished or begun.state not in ("running", "stopped"):
            return False
        begun.model_copy(update={"state": "stopped", "reason": reason, "process": None}).write(folder)
    return True


def _enter(folder: Path, held: ExitStack, until: float) -> None:
    """Enter a run's folder once its process has ended and nobody else is at work in it."""
    while True:
        begun = _read(folder)
        process = begun.process if begun is not None else None
        if process is None or not process.alive:
            with suppress(FedMergeError):  # it still writes its tables
                held.enter_context(at_work(folder))
                return
        if time.monotonic() > until:
            who = "somebody" if process is None else f"its process {process.pid}"
            raise FedMergeError(
                f"the run in '{folder}' was told to stop, but {who} is still at work on it: look again with "
                "`fedmerge deployment status`."
            )
        time.sleep(PAUSE)


def _read(folder: Path) -> RunManifest | None:
    try:
        return RunManifest.model_validate(read_sealed(folder / NAME))
    except (Damaged, ValueError, OSError):
        return None
