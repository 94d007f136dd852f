"""Do one job: from its configuration and the jobs it needs to files in its folder."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.data import Cohort, CohortSpec, build_cohort
from fedmerge.data.checks import remarks
from fedmerge.errors import FedMergeError
from fedmerge.experiment.bench.remarks import KIND
from fedmerge.experiment.bench.store import Store, StudyStopped, said
from fedmerge.experiment.bench.task import Outcome, Task
from fedmerge.experiment.config import Experiment
from fedmerge.experiment.entries import read_method
from fedmerge.experiment.evaluation import Predictor, TargetStreams, evaluate_predictor
from fedmerge.experiment.experiment import fine_tune
from fedmerge.experiment.kinds import REFERENCE
from fedmerge.experiment.machine import describe, reproducible
from fedmerge.experiment.majority import majority
from fedmerge.experiment.plugged import load_for
from fedmerge.experiment.predictors import adapt, alone, fuse, pooled, train_pooled
from fedmerge.experiment.record import Record
from fedmerge.experiment.setup import Setup, set_up
from fedmerge.files import DiskError, full, make_folder, write_text
from fedmerge.merging import FUSION
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.models.weights import load_weights, write_weights
from fedmerge.plugins import blamed
from fedmerge.testtime import TESTTIME

if TYPE_CHECKING:
    from fedmerge.federation import Server

START, MEMORIES = "start", "memories"


def work(task: Task) -> Outcome:
    """Do one job and write its folder. A job that fails is an outcome, too, never an exception."""
    began = time.perf_counter()
    record: dict[str, Any] = {"label": task.label, "config": task.config, "needs": list(task.needs)}
    reason, part = "", None
    try:
        store = Store(task.store)
        part = store.part(task.hash)
        with said(task.store), reproducible(task.threads):
            try:
                machine = describe(task.device)
                record |= {"device": machine["device"], "versions": machine["versions"]}
                record |= _do(task, store, part)
            except Exception as error:
                if isinstance(error, DiskError) or full(error):
                    raise
                known = str(error) if isinstance(error, FedMergeError) else blamed(error)
                reason = known or f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - began
        store.finish(
            task.hash, part, record | {"seconds": seconds, "reason": reason}, "failed" if reason else "done"
        )
    except StudyStopped as error:
        if part is not None:
            store.room.remove_tree(part)
        return Outcome(task.hash, "stopped", stop=str(error))
    return Outcome(task.hash, "failed" if reason else "done", reason, time.perf_counter() - began)


def _do(task: Task, store: Store, part: Path) -> dict[str, Any]:
    """Set the stage up, run it, and return what goes into job.json."""
    config, plugins = task.config, load_for(task.config, task.plugins)
    cohort_config = json.dumps(config["experiment"]["cohort"], sort_keys=True)
    spec = _cohort_spec(cohort_config, task.sources)
    experiment = Experiment.model_validate(config["experiment"] | {"cohort": spec, "plugins": plugins})
    (seed,) = experiment.seeds
    cohort = _cohort(cohort_config, seed, task.sources)
    record = Record({"config_hash": task.hash})
    stands_on = store.jobs / task.needs[0] if task.needs else part
    folder = stands_on if config["kind"] == "deploy" else part
    setup = set_up(experiment, cohort, tuple(config["members"]), seed, folder, record, task.device)
    done = _STAGES[config["kind"]](task, setup, store, part)
    looked = {"remarks": remarks(cohort)} if config["kind"] == KIND else {}
    rows = {"history": record.history, "decisions": record.decisions, "failures": record.failures}
    return done | rows | looked


def _rounds(task: Task, setup: Setup, store: Store, part: Path) -> dict[str, Any]:
    def programme(server: Server) -> None:
        state = server.rounds(server.start())
        setup.keep_in(ModelPool(part / START), START, state, "federated rounds", (), {})
        for name, kept in server.memories().items():
            make_folder(part / MEMORIES)
            write_weights(part / MEMORIES / f"{name}.safetensors", kept)
        setup.record.federation(setup.seed, "rounds", server.strategy)

    setup.with_server(programme)
    return {}


def _fine_tune(task: Task, setup: Setup, store: Store, part: Path) -> dict[str, Any]:
    def programme(server: Server) -> None:
        start = _start(task.needs, server, store)
        server.restore(_memories(task.needs, store))
        if setup.plan.fine_tune is None:
            fine_tune(setup, server, start, rounds=_history(task.needs, store))
        else:
            fine_tune(setup, server, start)
        setup.record.federation(setup.seed, "fine-tune", server.strategy)

    setup.with_server(programme)
    before = sum(store.read(need, "job.json")["seconds"] for need in task.needs)
    return {"seconds_before": before}


def _start(rounds: Sequence[str], server: Server, store: Store) -> State:
    """Return the weights from which hospitals fine-tune: those after the rounds (a job), or initial ones."""
    if not rounds:
        return server.start()
    return ModelPool(store.jobs / rounds[0] / START, create=False).state(START)


def _history(rounds: Sequence[str], store: Store) -> list[dict[str, Any]]:
    """Return the history of the rounds (a job)."""
    return [row for job in rounds for row in store.read(job, "job.json")["history"]]


def _memories(rounds: Sequence[str], store: Store) -> dict[str, State]:
    """Return the client state of each hospital after the rounds (a job), by name."""
    files = [path for job in rounds for path in (store.jobs / job / MEMORIES).glob("*.safetensors")]
    return {path.stem: load_weights(path) for path in files}


def _pooled(task: Task, setup: Setup, store: Store, part: Path) -> dict[str, Any]:
    train_pooled(setup, task.config["target"], setup.pool)
    return {"seconds_before": 0.0}


def _deploy(task: Task, setup: Setup, store: Store, part: Path) -> dict[str, Any]:
    target = task.config["target"]
    trained = {"seconds": 0.0}
    if task.needs:
        trained = store.read(task.needs[0], "job.json")
    else:
        store.room.remove_tree(setup.pool.folder)  # it has no model
    site = TargetStreams.of(target, setup.arrivals(target), setup.experiment.evaluation, setup.seed)
    rows, bins = [], []
    for candidate in _candidates(task, setup, store, target):
        for measured in evaluate_predictor(candidate, site, setup.conditions(target)):
            setup.record.result(setup.seed, target, measured)
            rows.append(measured.row)
            bins += measured.bins
    write_text(part / "rows.json", json.dumps(rows))
    write_text(part / "bins.json", json.dumps(bins))
    return {"training_seconds": trained["seconds"] + trained.get("seconds_before", 0.0)}


def _candidates(task: Task, setup: Setup, store: Store, target: str) -> Iterator[Predictor]:
    kind, given = task.config["as"], task.config["method"]
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
            start = _start(task.needs[1:], server, store)
            fused.append(fuse(setup, server, target, entry, start)[0])

        setup.with_server(programme)
        yield from fused
    else:
        yield adapt(setup, target, read_method(TESTTIME, given), setup.pool)


_STAGES: dict[str, Callable[[Task, Setup, Store, Path], dict[str, Any]]] = {
    "rounds": _rounds,
    "fine-tune": _fine_tune,
    "pooled": _pooled,
    "deploy": _deploy,
}


def _cohort_spec(config: str, sources: Path | None) -> CohortSpec:
    spec = CohortSpec.model_validate(json.loads(config))
    spec._folder = sources
    return spec


@functools.lru_cache(maxsize=2)
def _cohort(config: str, seed: int, sources: Path | None) -> Cohort:
    """Build a cohort; the last two are kept, because jobs of one seed follow each other."""
    return build_cohort(_cohort_spec(config, sources), seed)
