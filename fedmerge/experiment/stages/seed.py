"""One experiment, one seed: the graph of each of its cells, done in the run's folder.

A step's artifact is its checkpoint (``engine.checkpoints``): one that is finished is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedmerge.data import Cohort
from fedmerge.engine.events import Event
from fedmerge.engine.executors.beside import Beside
from fedmerge.engine.executors.processes import InProcess, Processes
from fedmerge.engine.graph import Graph
from fedmerge.engine.rows import Rows
from fedmerge.engine.schedule import Schedule
from fedmerge.engine.store import State
from fedmerge.engine.task import Assignment, Config, Outcome, Task
from fedmerge.errors import FedMergeError
from fedmerge.experiment.cell import Step, steps
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.kinds import ROUNDS, START
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import Setup, checkpoints_in, set_up
from fedmerge.experiment.stages.stage import Note, Stage
from fedmerge.experiment.stages.target_streams import TargetStreams, save_streams
from fedmerge.federation import LOCAL
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State as Weights

if TYPE_CHECKING:
    from fedmerge.federation import Backend, Server


class Second(Protocol):
    """A process that does steps of a cell beside this one (``second.SecondProcess``)."""

    def workers(self, cell: Cell, names: Sequence[str]) -> tuple[Processes, Config] | None:
        """Return what does these steps, with the options of their assignments; None: it does not pay."""


def run_seed(
    experiment: Experiment,
    cohort: Cohort,
    seed: int,
    folder: Path,
    record: Record,
    device: str,
    backend: Backend = LOCAL,
    second: Second | None = None,
) -> None:
    """Run one seed into ``folder``; all measurements, loaded ones too, go into ``record``.

    second: a process that does steps beside this one, where that pays.
    """
    for federation in federations(cohort, experiment):
        own, members = folder / federation.name, federation.members
        checkpoints = checkpoints_in(own, record)
        record.remarks += checkpoints.verify()
        setup = set_up(experiment, cohort, members, seed, own, record, device, checkpoints)
        Cell(replace(setup, backend=backend), federation).execute(second)


class Cell:
    """The steps of one federation of one seed, and what each has left: its rows and its note."""

    def __init__(self, setup: Setup, federation: Federation) -> None:
        self.setup, self.federation = setup, federation
        told = any(setup.cohort[name].remote for name in federation.members)
        diagnosed = setup.experiment.diagnose != "off"
        self.steps = {
            step.name: step for step in steps(setup.experiment, federation, diagnosed=diagnosed, told=told)
        }
        tasks = [Task(name, {"kind": each.kind}, each.needs, each.label) for name, each in self.steps.items()]
        self.graph = Graph({task.name: task for task in tasks})
        self.rows: dict[str, Rows] = {}
        self.notes: dict[str, Note] = {}
        self.written: set[str] = set()  # the targets whose streams are written
        self._meanwhile: tuple[Processes, Config] | None = None
        self._waits = False

    def execute(self, second: Second | None = None) -> None:
        """Do the steps that are not done, those first that ask hospitals, which come once for all of them.

        Those that ask none may meanwhile be done by a second process. The record then has the rows in the
        order of the steps, whatever was done when and where.
        """
        record, begun = self.setup.record, self.setup.record.position()
        states = self.load()
        todo = self.graph.to_do(self.steps, states, retry=False)
        schedule = Schedule(self.graph, states, subscribers=[self._hear])
        federated = [name for name in todo if self.steps[name].federated]
        others = [name for name in todo if name not in federated]
        self._meanwhile = second.workers(self, others) if second and federated else None
        try:
            if federated:
                record.stage(f"seed {self.setup.seed}: waiting for the hospitals", jobs=0)
                if self._meanwhile is not None:
                    federated, others = federated + others, []
                self.setup.with_server(lambda server: self._do(schedule, federated, server))
            self._do(schedule, others)
        finally:
            record.truncate(begun)
            for name in self.steps:
                record.extend(self.rows.get(name, {}))

    def load(self) -> dict[str, State]:
        """Load the steps that are finished, in this process or another; return the state of each."""
        return {name: "done" if name in self.notes else self._load(step) for name, step in self.steps.items()}

    def _load(self, step: Step) -> State:
        begun = self.setup.record.position()
        note = self.setup.checkpoints.load_if_done(*step.words)
        if note is None:
            return "missing"
        self.rows[step.name], self.notes[step.name] = self.setup.record.since(begun), note
        return "done"

    def _do(self, schedule: Schedule, names: Sequence[str], server: Server | None = None) -> None:
        session = Session(self, replace(self.setup, server=server))
        workers, options = self._meanwhile or (None, {})
        given = {name: Assignment(self.graph.tasks[name], "", self.setup.folder, options) for name in names}
        if workers is None:
            schedule.execute(given, InProcess(session.perform))
            return
        may = {name for name, step in self.steps.items() if not step.federated}
        schedule.execute(given, Beside(session.perform, workers, lambda task: task.name in may))

    def _hear(self, event: Event) -> None:
        """Take over what a second process has done; say what it does where this one waits for it."""
        task, record = event.task, self.setup.record
        if event.kind == "ended" and task is not None and task.name not in self.notes:
            if self._load(self.steps[task.name]) == "missing":
                raise FedMergeError(f"the checkpoint of {task.label} is gone from '{self.setup.folder}'.")
            record.tell(self.rows[task.name])
        if event.kind == "again" and task is not None and event.outcome is not None:
            why = f"the second process could not do {task.label}, so the first did it"
            record.images["second process"] = f"{why}: {event.outcome.reason}"
        if event.kind == "tick" and self._waits and event.progress.running:
            record.stage(f"seed {self.setup.seed}: {', '.join(event.progress.running)}", jobs=0)
        self._waits = event.kind == "tick"


class Session:
    """Steps of a cell that are done one after the other, with the same server or with none.

    start: the weights after the rounds, once they were held or taken up here.
    """

    def __init__(self, cell: Cell, setup: Setup) -> None:
        self.cell, self.setup = cell, setup
        self.start: Weights | None = None

    def perform(self, assignment: Assignment) -> Outcome:
        """Do a step as a checkpoint. What it raises ends the run; its rows so far stay in the record."""
        step, record = self.cell.steps[assignment.task.name], self.setup.record
        begun = record.position()
        try:
            with self.setup.checkpoints.save(*step.words) as note:
                note |= STAGES[step.kind](RunStage(self.setup, step, self.cell.federation.name, self))
        finally:
            self.cell.rows[step.name] = record.since(begun)
        self.cell.notes[step.name] = note
        return Outcome(step.name, "done")


@dataclass(frozen=True)
class RunStage(Stage):
    """A step of a run at work: models lie in the federation's folder, rounds in its journal."""

    session: Session
    isolates = keeps_fused = True

    def begin(self, server: Server) -> Weights:
        """Hold the rounds, or take them up after the last one that an earlier process has held."""
        if self.session.start is None:
            self.session.start = server.rounds(server.start(), self.setup.journal)
            if self.step.kind != ROUNDS:
                self.setup.record.skip(server.strategy, server.journalled)
        return self.session.start

    def left_by(self, kind: str) -> Mapping[str, Any]:
        """See ``Stage``."""
        name, cell = Step(kind).name, self.session.cell
        return {**cell.rows.get(name, {}), **cell.notes.get(name, {})}

    def pool(self, name: str) -> ModelPool:
        """See ``Stage``."""
        return self.setup.models(name) if name == START else self.setup.models(self.step.target, name)

    def streams(self) -> TargetStreams:
        """Return the streams of the target, and write the orders of their images."""
        site, written = self.setup.target_streams(self.step.target), self.session.cell.written
        if site.name not in written:
            save_streams(site, self.setup.folder / site.name)
            written.add(site.name)
        return site
