"""``bench``: do the missing tasks of a study, keep the finished ones, and write one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.cluster.config import BackendConfig
from fedmerge.data.cohort.content import files_of
from fedmerge.engine.events import Subscriber
from fedmerge.engine.schedule import Schedule
from fedmerge.engine.store import Store, states_in
from fedmerge.engine.task import Assignment, Task
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.machine import pick_device, versions
from fedmerge.experiment.kinds import RESUMING
from fedmerge.experiment.stages.tracking import check_trackers
from fedmerge.plugins import loaded_plugins
from fedmerge.schema.validation import noting_files
from fedmerge.storage import manifest
from fedmerge.workflows.bench import completion_cache, preflight
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.plan import StudyPlan, make_plan
from fedmerge.workflows.bench.remarks import write_remarks
from fedmerge.workflows.bench.rows import collect, collect_traces
from fedmerge.workflows.bench.spending import write_spending
from fedmerge.workflows.bench.study import Study, adopt, open_study
from fedmerge.workflows.bench.tracking import tracking
from fedmerge.workflows.bench.variants import Variant, read_bench

if TYPE_CHECKING:
    from fedmerge.engine.executors import Executor


def bench(
    source: str | Path | dict[str, Any] | BenchConfig,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    workers: int | Executor = 1,
    backend: BackendConfig | str | Mapping[str, Any] | None = None,
    device: str | None = None,
    retry: bool = False,
    extend: bool = False,
    plugins: Sequence[str] = (),
    watch: Subscriber | None = None,
) -> Study:
    """Do every task of a study that is not done yet, and return the study.

    source: a YAML file, the name of a shipped study, or a mapping. changes: overrides such as
    ``"set.seeds=[0, 1]"``. out: the study's folder; ``runs/NAME`` by default; the same folder goes on where
    it stopped. workers: tasks side by side on this machine, or an executor that does them. backend: ``ray``,
    or a ``fm.BackendConfig`` of that kind or its fields, does the tasks on a Ray cluster instead, ``workers``
    of its own at a time. retry: do failed tasks again. extend: accept a changed configuration or changed
    images; finished tasks that are still needed are kept. plugins: modules or files, FILE.py, besides those
    that the study names. watch: called with an ``Event`` at every start and end of a task, and about twice a
    second.

    The same study gives the same rows with any number of workers, on any backend, and however often it was
    interrupted; federated rounds go on at the last finished round. A task that fails gives rows with a
    reason, and so do tasks that need it. Raises FedMergeError for bad input, before the first task and with
    nothing written (``preflight``); for a folder in use, and a full disk; finished tasks are kept.
    """
    place = _backend(workers, backend)
    with noting_files() as files:
        config, variants = read_bench(source, changes, plugins)
        read = completion_cache.digests(files)
    plan = make_plan(config, variants)
    folder = Path(out) if out is not None else Path("runs") / config.name
    wanted = [entry.task for entry in plan.entries]
    todo = plan.to_do(wanted, states_in(folder, plan.tasks), retry)
    preflight.check(config, plan, todo)
    check_trackers(config.trackers)
    opened = _executor(workers, place, device or variants[0].experiment.device)
    with ExitStack() as early:
        attached = early.enter_context(opened) if todo else None  # what refuses to leaves no folder behind
        store = Store(folder)
        with store.locked(kept=[task.name for task in plan.tasks.values() if task.kind in RESUMING]):
            adopt(folder, config, plan, extend)
            said = store.damaged(plan.tasks)
            states = store.states(plan.tasks)
            todo = plan.to_do(wanted, states, retry)
            try:
                if todo:
                    with tracking(config, plan, store, said) as trackers, early.pop_all() as working:
                        executor, where = attached or working.enter_context(opened)
                        given = _assignments(plan, todo, variants, store, where)
                        told = [*trackers, *([] if watch is None else [watch])]
                        schedule = Schedule(plan, states, store, told, keep=config.keep_models, sort=sort_of)
                        schedule.execute(given, executor)
            finally:
                collect(config, plan, store)  # always: an earlier process may have been killed before this
                collect_traces(config, plan, store)
                write_remarks(plan, store, said)
                write_spending(plan, store)
            study = open_study(folder)
            if isinstance(source, str | Path):
                settled = [name for name, state in store.states(plan.tasks).items() if state != "missing"]
                data = [path for variant in variants for path in files_of(variant.cohort)]
                request = completion_cache.request_of(source, changes, plugins)
                completion_cache.write(folder, request, read, data, settled, study.summary)
            manifest.close(folder, "study")
    return study


def _backend(
    workers: int | Executor, backend: BackendConfig | str | Mapping[str, Any] | None
) -> BackendConfig:
    """Return where tasks are done. Raises FedMergeError for a wrong backend, and for workers given twice."""
    config = BackendConfig.of(backend)
    if config.kind == "ray" and workers != 1:
        raise FedMergeError("workers are for this machine: with backend ray, give workers to the backend.")
    return config


@contextmanager
def _executor(workers: int | Executor, config: BackendConfig, device: str) -> Iterator[tuple[Executor, str]]:
    """Yield what does the tasks, and the device that they name; end it after the block."""
    from fedmerge.engine.executors.processes import local_executor  # they load the training code

    if config.kind == "ray":
        from fedmerge.engine.executors.on_ray import ray_executor

        with ray_executor(config, device, VERSIONS_OF) as cluster:
            yield cluster, "cuda" if cluster.on_gpu else device
        return
    executor = local_executor(workers) if isinstance(workers, int) else workers
    try:
        yield executor, pick_device(device)
    finally:
        executor.close()


def _assignments(
    plan: StudyPlan, todo: Mapping[str, None], variants: Sequence[Variant], store: Store, device: str
) -> dict[str, Assignment]:
    from fedmerge.experiment.stages.tasks import WORK  # it loads the training code

    sources = {variant.cohort.name: variant.cohort.folder for variant in variants}
    threads = variants[0].experiment.threads or 1

    def of(task: Task) -> Assignment:
        folder = sources[task.config["experiment"]["cohort"]["name"]]
        options = {"device": device, "threads": threads, "sources": None if folder is None else str(folder)}
        options |= {"plugins": loaded_plugins(), "images": plan.images[task.name]}
        return Assignment(task, WORK, store.folder, options, resumes=task.kind in RESUMING)

    return {name: of(plan.tasks[name]) for name in todo}


VERSIONS_OF = f"{versions.__module__}:{versions.__name__}"
"""The function that every machine of a cluster must answer alike."""


def sort_of(task: Task) -> str:
    """Return the sort of a task: those of one stage and network take about the same time."""
    return f"{task.kind} {task.config['experiment']['model']['name']}"
