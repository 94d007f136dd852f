"""``tune``: choose an option of a test-time method on the hospitals that trained in a run.

Each trial, one value at one held-out hospital in one stream, is a task. Its artifact lies in the run's
folder, in ``tuning``, a store with a manifest of its own: what the run sealed stays as it was.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedmerge.engine.attempt import Attempt
from fedmerge.engine.events import Event
from fedmerge.engine.executors.processes import local_executor
from fedmerge.engine.graph import Graph
from fedmerge.engine.schedule import Schedule
from fedmerge.engine.store import Store, StoreStopped
from fedmerge.engine.task import Assignment, Task, task_of
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.plugged import plugin_hashes
from fedmerge.experiment.folder.machine import reproducible, settle, versions
from fedmerge.experiment.stages.record import Progress
from fedmerge.experiment.stages.tune import EntryTuning, entry_with
from fedmerge.plugins import load_module, loaded_plugins
from fedmerge.schema.option_groups import flat
from fedmerge.storage import manifest
from fedmerge.storage.manifest import TUNING
from fedmerge.testtime import TESTTIME
from fedmerge.testtime.tuning import Trial, Tuning, as_text, choose
from fedmerge.workflows.reopened import Wanted, opened

VERSION = 1
"""Of what a trial means: raise it where the same trial gives another score than before."""


@dataclass(frozen=True)
class Tuned:
    """The tuning of an entry. made: how many trials were made now; the others were in the run's folder.

    remarks: sentences on what was kept there and is damaged, and why nothing is kept.
    """

    entry: MethodConfig
    tuning: Tuning
    made: int
    remarks: tuple[str, ...]


@flat
def tune_run(
    folder: str | Path, *, wanted: Wanted, workers: int = 1, progress: Progress | None = None
) -> Tuned:
    """Tune an option on the models and hospitals of a finished run.

    wanted: its fields are given by keyword. workers: trials side by side, each in a process of its own, or 1:
    in this one; the result is the same to the bit. progress: called with (stage, done, total).

    What was tried before is taken from the run's folder, and what is tried is kept there; where that cannot
    be written nothing is kept, and a remark says so. Raises FedMergeError for a folder that is no run's, a
    run without models or whose images are not on this machine, a name that is not there, fewer than 3
    sources, a trial that fails, and a folder in which another process tunes.
    """
    asked = json.dumps({"run": str(folder)} | vars(wanted))
    opened.cache_clear()  # the folder may have changed since
    try:
        work = opened(asked)
        with reproducible(work.setup.experiment.threads):
            return _tuned(work, asked, Path(folder), workers, progress)
    finally:
        opened.cache_clear()


def _tuned(work: EntryTuning, asked: str, folder: Path, workers: int, progress: Progress | None) -> Tuned:
    trials = work.trials()
    tasks = dict(zip(trials, _tasks(work, trials), strict=True))
    graph = Graph({task.name: task for task in tasks.values()})
    remarks: list[str] = []
    with _store(folder, remarks) as store, store.locked():
        remarks += store.damaged(graph.tasks)
        states = store.states(graph.tasks)
        todo = graph.to_do(graph.tasks, states, retry=True)
        if todo:
            options = {"asked": asked, "threads": torch.get_num_threads(), "plugins": loaded_plugins()}
            given = {
                task.name: Assignment(task, WORK, store.folder, options | {"trial": vars(trial)})
                for trial, task in tasks.items()
                if task.name in todo
            }
            with closing(local_executor(min(workers, len(todo)))) as executor:
                Schedule(graph, states, store, [_hearing(work.title, progress)]).execute(given, executor)
        manifest.close(store.folder, store.kind)
        scores = {trial: store.read(task.name, "job.json")["score"] for trial, task in tasks.items()}
    return Tuned(work.entry, choose(work.asked.option, scores), len(todo), tuple(remarks))


def do_trial(attempt: Attempt) -> None:
    """Make the trial of a task, and put its score into the record."""
    options = attempt.options
    for name, source in options["plugins"].items():
        load_module(name, source)
    settle(options["threads"])
    attempt.record["score"] = opened(options["asked"]).attempt(Trial(**options["trial"]))


WORK = f"{__name__}:{do_trial.__name__}"
"""The function of every trial, as an ``Assignment`` names it."""


def _tasks(work: EntryTuning, trials: Sequence[Trial]) -> Iterator[Task]:
    """Yield the task of each trial, named by all that decides its score: also the images, as they arrive."""
    setup, option = work.setup, work.asked.option
    origin = TESTTIME[work.entry.method].origin
    common = {
        "kind": "trial",
        "batch_norm": setup.plan.batch_norm,
        "batch_size": work.batch_size,
        "device": setup.device.partition(":")[0],
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "plugins": plugin_hashes(setup.experiment) | ({} if origin is None else {origin.title: origin.hash}),
    }
    cards = {source.name: setup.pool.card(source.name) for source in work.sources}
    models = {
        name: [card.model.model_dump(mode="json"), card.sha256, card.metrics.get("temperature")]
        for name, card in cards.items()
    }
    images = {source.name: [_digest(source.images), _digest(source.labels)] for source in work.sources}
    orders = {source.name: source.orders for source in work.sources}
    for trial in trials:
        own = {
            "method": entry_with(work.entry, option, trial.value),
            "models": [model for name, model in models.items() if name != trial.held_out],
        }
        arrive = [*images[trial.held_out], _digest(orders[trial.held_out][trial.stream])]
        label = f"{option} {as_text(trial.value)}, {trial.held_out} held out, {trial.stream}"
        yield task_of(common | own, (), label, content="".join(arrive), version=VERSION)


def _digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and values."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for piece in tensor.split(1024):
        found.update(piece.cpu().contiguous().numpy().reshape(-1).data)
    return found.hexdigest()


@contextmanager
def _store(folder: Path, remarks: list[str]) -> Iterator[Store]:
    """Yield the store in a run's folder; where that cannot be written one that ends with the block."""
    try:
        store = Store(folder / TUNING, TUNING)
    except StoreStopped as stopped:
        remarks.append(f"what is tried is not kept: {stopped}")
        with tempfile.TemporaryDirectory(prefix="fedmerge-tuning-") as apart:
            yield Store(Path(apart), TUNING)
        return
    yield store


def _hearing(title: str, progress: Progress | None) -> Callable[[Event], None]:
    """Return what hears of trials: the first that fails ends the work."""

    def hear(event: Event) -> None:
        if event.outcome is not None and event.outcome.status != "done":
            raise FedMergeError(event.outcome.reason)
        if progress is not None:
            progress(title, event.progress.done, event.progress.jobs)

    return hear
