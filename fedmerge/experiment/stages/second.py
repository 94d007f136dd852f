"""A second process of a run: it does steps that ask no hospital while the hospitals train in the first.

It takes the run up from its folder, as ``--resume`` does, and does a step as a checkpoint there; the first
process then loads this, as it would after a kill. What it could not do is done in the first.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

import fedmerge.storage.own_files as own_files
from fedmerge.cluster.cpus import available_cpus
from fedmerge.data import build_cohort
from fedmerge.engine.executors.processes import Processes
from fedmerge.engine.task import Assignment, Config, Outcome
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.folder.machine import describe, settle
from fedmerge.experiment.folder.run_manifest import read_begun, same_experiment, same_place
from fedmerge.experiment.kinds import POOLED
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.seed import Cell, Session
from fedmerge.experiment.stages.setup import Setup, checkpoints_in, set_up
from fedmerge.experiment.stages.timing import step_seconds
from fedmerge.models.pool import ModelPool
from fedmerge.training.local import batch_sizes

When = Literal["never", "if it pays", "always"]
GLANCE = 0.2
"""Seconds for which CPUs are watched; the system counts in hundredths."""
PAYS = 5.0
"""Seconds of pooled training from which a second process pays: its start takes about three."""


class SecondProcess:
    """The second process of a run, begun with the first cell that it pays for.

    folder: of the run. common: of its record. device: of the run. when: it is to be begun.
    """

    def __init__(self, folder: Path, common: dict[str, Any], device: str, when: When) -> None:
        self._given: Config = {"run": str(folder), "common": common, "device": device}
        self._given["threads"] = torch.get_num_threads()
        self._when = when
        self._workers: Processes | None = None

    def workers(self, cell: Cell, names: Sequence[str]) -> tuple[Processes, Config] | None:
        """Return what does these steps of a cell beside it, with the options of their assignments.

        None where this process had better do them itself.
        """
        if self._workers is None:
            if self._when == "never" or (self._when == "if it pays" and not _pays(cell, names)):
                return None
            self._workers = Processes(1, do_step)
        return self._workers, self._given | {"seed": cell.setup.seed, "federation": cell.federation.name}

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any] | None:
        """Call a function there, between cells; None where the process was not begun, or is at work."""
        return None if self._workers is None else self._workers.call(function, *arguments)

    def close(self) -> None:
        """End the process at once."""
        if self._workers is not None:
            self._workers.close()


@contextmanager
def second_process(
    folder: Path, common: dict[str, Any], device: str, workers: int | None
) -> Iterator[SecondProcess]:
    """Yield the second process of a run; it ends with the block, and where it may not be it never begins.

    workers: as ``BackendConfig`` has it. Left to choose, there is one where this process leaves a CPU and
    memory for another one like it.
    """
    room = (
        device == "cpu"
        and 2 * torch.get_num_threads() <= available_cpus()
        and 2 * psutil.Process().memory_info().rss <= psutil.virtual_memory().available
    )
    when: When = "never" if workers == 1 else "always" if workers == 2 else "if it pays" if room else "never"
    second = SecondProcess(folder, common, device, when)
    try:
        yield second
    finally:
        second.close()


def do_step(assignment: Assignment) -> Outcome:
    """Do a step of a cell in the second process. An error makes it ``lost``: the first meets it again."""
    began, name = time.perf_counter(), assignment.task.name
    try:
        cell = _cell(json.dumps(assignment.options, sort_keys=True))
        cell.load()
        pool = ModelPool(cell.setup.folder / "pool", counts=cell.setup.checkpoints.has)  # as it is by now
        Session(cell, replace(cell.setup, pool=pool)).perform(assignment)
    except Exception as error:
        return Outcome(name, "lost", f"{type(error).__name__}: {error}")
    return Outcome(name, "done", seconds=time.perf_counter() - began)


@functools.lru_cache(maxsize=1)
def _cell(written: str) -> Cell:
    """Take a cell up from the folder of its run. Raises FedMergeError where that is not as it was begun."""
    given = json.loads(written)
    folder, seed, device = Path(given["run"]), given["seed"], given["device"]
    settle(given["threads"])
    own_files.enter(folder, recording=True)
    begun = read_begun(folder)
    experiment, spec = same_experiment(folder, begun, None, (), None, None)
    first = build_cohort(spec, experiment.seeds[0])
    cohort = first if seed == experiment.seeds[0] else build_cohort(spec, seed)
    same_place(folder, begun, experiment, spec, first, describe(device))
    (federation,) = [each for each in federations(cohort, experiment) if each.name == given["federation"]]
    own = folder / f"seed-{seed}" / federation.name
    record = Record(given["common"])
    checkpoints = checkpoints_in(own, record)  # which the first process has verified
    setup = set_up(experiment, cohort, federation.members, seed, own, record, device, checkpoints)
    return Cell(setup, federation)


def _idle_cpus() -> float:
    """Return how many CPUs of this machine are idle while this process waits: others may work here, too."""
    began, before = time.perf_counter(), psutil.cpu_times().idle
    time.sleep(GLANCE)
    return float((psutil.cpu_times().idle - before) / (time.perf_counter() - began))


def _pays(cell: Cell, names: Sequence[str]) -> bool:
    """Whether these steps take so long that a second process ends them sooner: a training step is timed."""
    targets = [cell.steps[name].target for name in names if cell.steps[name].kind == POOLED]
    steps = sum(_steps(cell.setup, target) for target in targets)
    if not steps:
        return False
    try:
        return steps * step_seconds(cell.setup) >= PAYS and _idle_cpus() >= 1.5 * torch.get_num_threads()
    except FedMergeError:  # training will say so
        return False


def _steps(setup: Setup, target: str) -> int:
    """Count the steps of pooled training for a target."""
    plan, sources = setup.plan, setup.experiment.sources(target, setup.members)
    count = sum(len(setup.cohort[name].train) for name in sources)
    phases = [(plan.rounds, plan.local), *([] if plan.fine_tune is None else [(1, plan.fine_tune)])]
    return sum(
        times * options.epochs * len(batch_sizes(count, options.batch_size)) for times, options in phases
    )
