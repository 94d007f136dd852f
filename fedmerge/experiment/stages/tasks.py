"""The stages of an experiment as tasks: from a task's configuration and needs to files in its folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedmerge.blame import blamed
from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.checks import remarks
from fedmerge.engine.attempt import Attempt
from fedmerge.engine.store import Store
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import read_method
from fedmerge.experiment.configuration.plugged import load_for
from fedmerge.experiment.folder.machine import describe, pick_device, reproducible
from fedmerge.experiment.folder.results import write_table
from fedmerge.experiment.kinds import COEFFICIENTS, LOOKS, REFERENCE, RESUMING, START
from fedmerge.experiment.stages.evaluation import Predictor, TargetStreams, evaluate_predictor
from fedmerge.experiment.stages.fine_tuning import fine_tune
from fedmerge.experiment.stages.majority import majority
from fedmerge.experiment.stages.predictors import adapt, alone, fuse, pooled, train_pooled
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import Setup, set_up
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


@dataclass(frozen=True)
class Stage:
    """A stage at work: its attempt, and the federation that it is about."""

    attempt: Attempt
    setup: Setup

    @property
    def config(self) -> dict[str, Any]:
        """The task's configuration."""
        return self.attempt.task.config

    @property
    def needs(self) -> tuple[str, ...]:
        """The tasks whose artifacts the stage reads."""
        return self.attempt.task.needs

    @property
    def store(self) -> Store:
        """The store that holds what the stage needs."""
        return self.attempt.store


def do_stage(attempt: Attempt) -> None:
    """Set the stage of a task up, run it, and fill its record.

    options: ``device``, ``threads``, ``sources``, the folder where a cohort's relative paths start, and
    ``plugins``, as text. An exception that comes from a plug-in is a FedMergeError that names it.
    """
    try:
        _do(attempt)
    except FedMergeError:
        raise
    except Exception as error:
        if (reason := blamed(error)) is None:
            raise
        raise FedMergeError(reason) from error


def _do(attempt: Attempt) -> None:
    config, options = attempt.task.config, attempt.options
    plugins = load_for(config, options["plugins"])
    device, sources = pick_device(options["device"]), options["sources"]
    with reproducible(options["threads"]):
        machine = describe(device)
        attempt.record.update(device=machine["device"], versions=machine["versions"])
        written = json.dumps(config["experiment"]["cohort"], sort_keys=True)
        experiment = Experiment.model_validate(
            config["experiment"] | {"cohort": _cohort_spec(written, sources), "plugins": plugins}
        )
        (seed,) = experiment.seeds
        cohort = _cohort(written, seed, sources)
        record = Record({"config_hash": attempt.task.name})
        setup = set_up(
            experiment,
            cohort,
            tuple(config["members"]),
            seed,
            _pool_folder(attempt),
            record,
            device,
            journalled=config["kind"] in RESUMING,
        )
        done = _STAGES[config["kind"]](Stage(attempt, setup))
        looked = {"remarks": remarks(cohort)} if config["kind"] == LOOKS else {}
        rows = {"history": record.history, "decisions": record.decisions, "failures": record.failures}
        attempt.record.update(done | rows | looked)


def _pool_folder(attempt: Attempt) -> Path:
    """Return the folder of the models: those that an evaluation needs, or the task's own."""
    needs = attempt.task.needs if attempt.task.kind == "evaluate" else ()
    return attempt.store.jobs / needs[0] if needs else attempt.folder


def _rounds(stage: Stage) -> dict[str, Any]:
    """Hold the rounds; each is a checkpoint, so that an interrupted attempt goes on at its last one."""
    setup, folder, room = stage.setup, stage.attempt.folder, stage.store.room
    room.remove_tree(folder / START)
    room.remove_tree(folder / MEMORIES)

    def programme(server: Server) -> None:
        state = server.rounds(server.start(), setup.journal)
        setup.keep_in(ModelPool(folder / START), START, state, "federated rounds", (), {})
        for name, kept in server.memories().items():
            make_folder(folder / MEMORIES)
            write_weights(folder / MEMORIES / f"{name}.safetensors", kept)
        setup.record.federation(setup.seed, "rounds", server.strategy)

    setup.with_server(programme)
    room.remove_tree(folder / JOURNAL)
    return {}


def _fine_tune(stage: Stage) -> dict[str, Any]:
    """Let each hospital fine-tune; each is a checkpoint."""
    setup, store = stage.setup, stage.store

    def programme(server: Server) -> None:
        start = _start(stage.needs, server, store)
        server.restore(_memories(stage.needs, store))
        if setup.plan.fine_tune is None:
            fine_tune(setup, server, start, rounds=_history(stage.needs, store))
        else:
            fine_tune(setup, server, start)
        setup.record.federation(setup.seed, "fine-tune", server.strategy)

    setup.with_server(programme)
    store.room.remove_tree(stage.attempt.folder / JOURNAL)
    before = sum(store.read(need, "job.json")["seconds"] for need in stage.needs)
    return {"seconds_before": before}


def _start(rounds: Sequence[str], server: Server, store: Store) -> State:
    """Return the weights from which hospitals fine-tune: those after the rounds (a task), or initial ones."""
    if not rounds:
        return server.start()
    return ModelPool(store.jobs / rounds[0] / START, create=False).state(START)


def _history(rounds: Sequence[str], store: Store) -> list[dict[str, Any]]:
    """Return the history of the rounds (a task)."""
    return [row for task in rounds for row in store.read(task, "job.json")["history"]]


def _memories(rounds: Sequence[str], store: Store) -> dict[str, State]:
    """Return the client state of each hospital after the rounds (a task), by name."""
    files = [path for task in rounds for path in (store.jobs / task / MEMORIES).glob("*.safetensors")]
    return {path.stem: load_weights(path) for path in files}


def _pooled(stage: Stage) -> dict[str, Any]:
    train_pooled(stage.setup, stage.config["target"], stage.setup.pool)
    return {"seconds_before": 0.0}


def _evaluate(stage: Stage) -> dict[str, Any]:
    """Measure one method at one hospital: its rows, calibration bins, and coefficients of every batch."""
    setup, store, target = stage.setup, stage.store, stage.config["target"]
    trained = {"seconds": 0.0}
    if stage.needs:
        trained = store.read(stage.needs[0], "job.json")
    else:
        store.room.remove_tree(setup.pool.folder)  # it has no model
    site = TargetStreams.of(target, setup.arriving_images(target), setup.experiment.evaluation, setup.seed)
    rows, bins, trace = [], [], []
    for predictor in _predictors(stage):
        for measured in evaluate_predictor(predictor, site, setup.conditions(target)):
            setup.record.result(setup.seed, target, measured)
            rows.append(measured.row)
            bins += measured.bins
            trace += [entry | {"method": measured.row["method"]} for entry in measured.trace]
    folder = stage.attempt.folder
    write_text(folder / "rows.json", json.dumps(rows))
    write_text(folder / "bins.json", json.dumps(bins))
    if trace:
        write_table(folder / COEFFICIENTS, pd.DataFrame(trace))
    return {"training_seconds": trained["seconds"] + trained.get("seconds_before", 0.0)}


def _predictors(stage: Stage) -> Iterator[Predictor]:
    setup, target = stage.setup, stage.config["target"]
    kind, given = stage.config["as"], stage.config["method"]
    if kind == REFERENCE:
        yield majority(setup, target, {})
    elif kind == "alone":
        yield from (alone(setup, name) for name in setup.sources(target))
    elif kind == "pooled":
        yield pooled(setup, setup.pool)
    elif kind == "fusion":
        entry = read_method(FUSION, given)
        fused: list[Predictor] = []

        def programme(server: Server) -> None:
            start = _start(stage.needs[1:], server, stage.store)
            predictor, result = fuse(setup, server, target, entry, start)
            setup.record.fusion(setup.seed, target, entry.label, result.decisions)
            fused.append(predictor)

        setup.with_server(programme)
        yield from fused
    else:
        entry = read_method(TESTTIME, given)
        rounds = stage.needs[-1] if entry.needs_federated else ""
        federated = ModelPool(stage.store.jobs / rounds / START, create=False) if rounds else None
        yield adapt(setup, target, entry, setup.pool, federated)


_STAGES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "rounds": _rounds,
    "fine-tune": _fine_tune,
    "pooled": _pooled,
    "evaluate": _evaluate,
}


def _cohort_spec(config: str, sources: str | None) -> CohortSpec:
    spec = CohortSpec.model_validate(json.loads(config))
    spec._folder = None if sources is None else Path(sources)
    return spec


@functools.lru_cache(maxsize=2)
def _cohort(config: str, seed: int, sources: str | None) -> Cohort:
    """Build a cohort; the last two are kept, because tasks of one seed follow each other."""
    return build_cohort(_cohort_spec(config, sources), seed)
