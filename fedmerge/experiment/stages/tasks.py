"""The stages of an experiment as tasks of a study: from configuration and needs to files in a folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedmerge.blame import blamed, exits_named
from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.checks.checks import remarks
from fedmerge.data.cohort.content import cohort_content, public_content
from fedmerge.engine.attempt import Attempt
from fedmerge.engine.store import StoreStopped
from fedmerge.errors import FedMergeError
from fedmerge.experiment.cell import Step
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig, read_method
from fedmerge.experiment.configuration.plugged import load_for
from fedmerge.experiment.folder.machine import describe, pick_device, reproducible
from fedmerge.experiment.folder.results import write_table
from fedmerge.experiment.kinds import (
    COEFFICIENTS,
    EVALUATE,
    FINE_TUNE,
    LOOKS,
    RESUMING,
    ROUNDS,
    START,
    TEST_TIME,
)
from fedmerge.experiment.kinds import FUSION as FUSED
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import checkpoints_in, set_up
from fedmerge.experiment.stages.stage import REFERENCES, Stage
from fedmerge.merging import FUSION
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.storage.files import make_folder, write_text
from fedmerge.testtime import TESTTIME

if TYPE_CHECKING:
    from fedmerge.federation import Server

MEMORIES, JOURNAL = "memories", "journal"
WORK = f"{__name__}:do_stage"
"""The function of every task of an experiment, as an ``Assignment`` names it."""


def do_stage(attempt: Attempt) -> None:
    """Set the stage of a task up, run it, and fill its record.

    options: ``device``, ``threads``, ``sources``, the folder where a cohort's relative paths start,
    ``plugins`` with their code, and ``images``, the content of the cohort's images and of the public ones
    by which the task is named. An exception that comes from a plug-in is a FedMergeError that names it. A
    plug-in that cannot be loaded here, or other images here, stop the study: so it is for other tasks, too.
    """
    try:
        with exits_named():
            _do(attempt)
    except FedMergeError:
        raise
    except Exception as error:
        if (reason := blamed(error)) is None:
            raise
        raise FedMergeError(reason) from error


def _do(attempt: Attempt) -> None:
    config, options, kind = attempt.task.config, attempt.options, attempt.task.kind
    try:
        plugins = load_for(config, options["plugins"])
    except FedMergeError as error:
        raise StoreStopped(str(error)) from error
    device, sources = pick_device(options["device"]), options["sources"]
    with reproducible(options["threads"]):
        machine = describe(device)
        attempt.record.update(device=machine["device"], versions=machine["versions"])
        written = json.dumps(config["experiment"]["cohort"], sort_keys=True)
        experiment = Experiment.model_validate(
            config["experiment"] | {"cohort": _cohort_spec(written, sources), "plugins": plugins}
        )
        (seed,) = experiment.seeds
        images, public = options["images"]
        cohort, members = _cohort(written, seed, sources, images), tuple(config["members"])
        if public_content(experiment.fusion_data, cohort.folder) != public:
            raise _other_images(cohort.name)
        record, folder = Record({"config_hash": attempt.task.name}), _pool_folder(attempt)
        resumes = kind in RESUMING
        checkpoints = checkpoints_in(folder if resumes else None, record)
        record.remarks += checkpoints.verify()
        setup = set_up(experiment, cohort, members, seed, folder, record, device, checkpoints)
        stage = TaskStage(setup, _step(config), kind, attempt)
        attempt.record.update(STAGES[kind](stage))
        rows = {"history": record.history, "decisions": record.decisions, "failures": record.failures}
        looked = {"remarks": remarks(cohort)} if kind == LOOKS else {}
        attempt.record.update(rows | looked | stage.finish())


def _pool_folder(attempt: Attempt) -> Path:
    """Return the folder of the models: those that an evaluation needs, or the task's own."""
    needs = attempt.task.needs if attempt.task.kind == EVALUATE else ()
    return attempt.store.jobs / needs[0] if needs else attempt.folder


def _step(config: Mapping[str, Any]) -> Step:
    """Return the step of a cell that a task does."""
    kind, target, rows = config["kind"], config.get("target", ""), config.get("as", "")
    if kind != EVALUATE:
        return Step(kind, target=target)
    given = config["method"]
    if rows in (FUSED, TEST_TIME):
        entry = read_method(FUSION if rows == FUSED else TESTTIME, given)
    else:
        entry = MethodConfig(method=given["method"], label=given["method"])
    return Step(kind, target=target, rows=rows, entry=entry)


@dataclass(frozen=True)
class TaskStage(Stage):
    """A stage at work as a task: what it needs lies in the folders of other tasks."""

    attempt: Attempt
    isolates = keeps_fused = False

    def begin(self, server: Server) -> State:
        """Hold the rounds, or return where those of another task ended; a fine-tuning restores hospitals."""
        if self.step.kind == ROUNDS:
            return server.rounds(server.start(), self.setup.journal)
        if self.step.kind == FINE_TUNE:
            server.restore(self._memories())
        return self.pool(START).state(START) if ROUNDS in self._needs else server.start()

    def left_by(self, kind: str) -> Mapping[str, Any]:
        """See ``Stage``."""
        return self.attempt.store.read(self._needs[kind], "job.json") if kind in self._needs else {}

    def pool(self, name: str) -> ModelPool:
        """See ``Stage``."""
        if name == REFERENCES:
            return self.setup.pool
        if self.step.kind == ROUNDS:
            return ModelPool(self.attempt.folder / START)
        return ModelPool(self._folder(ROUNDS) / START, create=False)

    def keep_rounds(self, server: Server, state: State) -> None:
        """Keep the model of the rounds, and what hospitals keep to themselves, for other tasks."""
        for left_over in (START, MEMORIES):
            self.attempt.store.room.remove_tree(self.attempt.folder / left_over)
        self.setup.keep_in(self.pool(START), START, state, "federated rounds", (), {})
        for name, kept in server.memories().items():
            make_folder(self.attempt.folder / MEMORIES)
            write_weights(self.attempt.folder / MEMORIES / f"{name}.safetensors", kept)

    def finish(self) -> dict[str, Any]:
        """Write the rows of an evaluation, take the journal away, and return the seconds of training."""
        folder, store, record = self.attempt.folder, self.attempt.store, self.setup.record
        store.room.remove_tree(folder / JOURNAL)
        before = [store.read(need, "job.json") for need in self.attempt.task.needs]
        if self.step.kind != EVALUATE:
            return {"seconds_before": sum(job["seconds"] for job in before)}
        if not before:
            store.room.remove_tree(self.setup.pool.folder)  # it has no model
        write_text(folder / "rows.json", json.dumps(record.results))
        write_text(folder / "bins.json", json.dumps(record.reliability))
        if record.coefficients:
            write_table(folder / COEFFICIENTS, pd.DataFrame(record.coefficients))
        trained = before[0]["seconds"] + before[0].get("seconds_before", 0.0) if before else 0.0
        return {"training_seconds": trained}

    @functools.cached_property
    def _needs(self) -> dict[str, str]:
        """The needed tasks by their kind."""
        needs = self.attempt.task.needs
        return {self.attempt.store.read(need, "job.json")["config"]["kind"]: need for need in needs}

    def _folder(self, kind: str) -> Path:
        return self.attempt.store.jobs / self._needs[kind]

    def _memories(self) -> dict[str, State]:
        """Return the client state of each hospital after the rounds, by name."""
        found = (self._folder(ROUNDS) / MEMORIES).glob("*.safetensors") if ROUNDS in self._needs else ()
        return {path.stem: load_weights(path) for path in found}


def _cohort_spec(config: str, sources: str | None) -> CohortSpec:
    spec = CohortSpec.model_validate(json.loads(config))
    spec._folder = None if sources is None else Path(sources)
    return spec


@functools.lru_cache(maxsize=2)
def _cohort(config: str, seed: int, sources: str | None, images: str) -> Cohort:
    """Build a cohort; the last two are kept, because tasks of one seed follow each other.

    Raises StoreStopped where its images, which were read just now, are not those of which the content was
    ``images`` when the study was planned.
    """
    spec = _cohort_spec(config, sources)
    cohort = build_cohort(spec, seed)
    if cohort_content(spec) != images:
        raise _other_images(spec.name)
    return cohort


def _other_images(cohort: str) -> StoreStopped:
    return StoreStopped(
        f"the images of cohort '{cohort}' are not those that the study was planned with: they were changed "
        "while it was at work, or are others on another machine. Finished jobs are kept; put the images "
        "back, or accept them (--extend), and give the same command again."
    )
