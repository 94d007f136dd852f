"""``bench``: do the missing jobs of a study, keep the finished ones, and write one table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge import manifest
from fedmerge.experiment.bench import completion_cache as completion_cache
from fedmerge.experiment.bench import preflight
from fedmerge.experiment.bench.config import BenchConfig, Variant, read_bench
from fedmerge.experiment.bench.plan import Job, Plan, make_plan
from fedmerge.experiment.bench.progress import Clock, StudyProgress, Watch
from fedmerge.experiment.bench.remarks import write_remarks
from fedmerge.experiment.bench.rows import collect
from fedmerge.experiment.bench.spending import write_spending
from fedmerge.experiment.bench.store import State, Store, StudyStopped, states_in
from fedmerge.experiment.bench.study import Study, adopt, open_study
from fedmerge.experiment.bench.task import Outcome, Task
from fedmerge.experiment.machine import pick_device
from fedmerge.validation import noting_files

if TYPE_CHECKING:
    from fedmerge.experiment.bench.workers import Workers

TICK = 0.5


def bench(
    source: str | Path | dict[str, Any] | BenchConfig,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    workers: int | Workers = 1,
    device: str | None = None,
    retry: bool = False,
    extend: bool = False,
    watch: Watch | None = None,
) -> Study:
    """Do every job of a study that is not done yet, and return the study.

    source: a YAML file, the name of a shipped study, or a mapping. changes: overrides such as
    ``"set.seeds=[0, 1]"``. out: the study's folder; ``runs/NAME`` by default; the same folder goes on where
    it stopped. workers: jobs side by side on this machine, or an object that does them. retry: do failed jobs
    again. extend: accept a changed configuration; finished jobs that it still needs are kept. watch: called
    with a ``StudyProgress`` at every change, and about twice a second.

    The same study gives the same rows with any number of workers and however often it was interrupted. A job
    that fails gives rows with a reason, and so do jobs that need it. Raises FedMergeError for bad input,
    before the first job and with nothing written (``preflight``); for a folder in use, and a full disk;
    finished jobs are kept.
    """
    with noting_files() as files:
        config, variants = read_bench(source, changes)
    plan = make_plan(config, variants)
    folder = Path(out) if out is not None else Path("runs") / config.name
    preflight.check(config, variants, _to_do(plan, states_in(folder, plan.jobs), retry))
    store = Store(folder)
    with store.locked():
        adopt(folder, config, plan, extend)
        damaged = store.damaged(plan.jobs)
        states = store.states(plan.jobs)
        todo = _to_do(plan, states, retry)
        try:
            if todo:
                tasks = _tasks(plan, todo, variants, store, device)
                _do(config, plan, tasks, states, store, workers, watch)
        finally:
            collect(config, plan, store)  # always: an earlier process may have been killed before this
            write_remarks(plan, store, damaged)
            write_spending(plan, store)
        study = open_study(folder)
        if isinstance(source, str | Path):
            settled = [job for job, state in store.states(plan.jobs).items() if state != "missing"]
            completion_cache.write(
                folder, completion_cache.request_of(source, changes), files, settled, study.summary
            )
        manifest.close(folder, "study")
    return study


def _do(
    config: BenchConfig,
    plan: Plan,
    tasks: dict[str, Task],
    states: dict[str, State],
    store: Store,
    workers: int | Workers,
    watch: Watch | None,
) -> None:
    from fedmerge.experiment.bench.workers import local_workers  # loads the training code: only when needed

    crew = local_workers(workers) if isinstance(workers, int) else workers
    try:
        _hand_out(config, plan, tasks, states, store, crew, watch)
    finally:
        crew.close()


def _to_do(plan: Plan, states: dict[str, State], retry: bool) -> dict[str, None]:
    """Return the jobs whose rows are missing, and the missing jobs that these need, in the plan's order."""
    again = {"missing", "failed"} if retry else {"missing"}
    open_ = [entry.job for entry in plan.entries if states[entry.job] in again]
    todo: set[str] = set()
    while open_:
        job = open_.pop()
        if job not in todo:
            todo.add(job)
            open_ += [need for need in plan.jobs[job].needs if states[need] in {"dropped", *again}]
    return {job: None for job in plan.jobs if job in todo}


def _tasks(
    plan: Plan, todo: dict[str, None], variants: Sequence[Variant], store: Store, device: str | None
) -> dict[str, Task]:
    sources = {variant.cohort.name: variant.cohort.folder for variant in variants}
    first = variants[0].experiment
    where = pick_device(device or first.device)
    threads = first.threads or 1
    return {
        name: Task(
            name,
            plan.jobs[name].config,
            plan.jobs[name].needs,
            plan.jobs[name].label,
            store.folder,
            sources[plan.jobs[name].config["experiment"]["cohort"]["name"]],
            where,
            threads,
        )
        for name in todo
    }


def _hand_out(
    config: BenchConfig,
    plan: Plan,
    tasks: dict[str, Task],
    states: dict[str, State],
    store: Store,
    crew: Workers,
    watch: Watch | None,
) -> None:
    """Submit tasks in the plan's order, each as soon as the jobs it needs are done."""
    finished = sum(states[job] in ("done", "dropped") for job in plan.jobs if job not in tasks)
    failed = sum(states[job] == "failed" for job in plan.jobs if job not in tasks)
    progress = StudyProgress(len(plan.jobs), finished, failed)
    for job in tasks:
        states[job] = "missing"
    clock = Clock(tasks, crew.slots)
    waiting = dict(tasks)
    running: dict[Future[Outcome], Task] = {}
    models = _Models(config, plan, states, store)
    while waiting or running:
        for task in _ready(waiting, plan, states):
            if len(running) >= crew.slots:
                break
            del waiting[task.hash]
            progress.running[task.label] = time.monotonic()
            _tell(watch, progress)
            running[crew.submit(task)] = task
        _drop_hopeless(waiting, plan, states, progress)
        finished_now, _ = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in finished_now:
            task = running.pop(future)
            outcome = future.result()
            if outcome.stop:
                raise StudyStopped(outcome.stop)
            if outcome.status == "lost":
                lost = {"label": task.label, "config": task.config, "reason": outcome.reason}
                store.finish(task.hash, store.part(task.hash), lost, "failed")
            states[task.hash] = "done" if outcome.status == "done" else "failed"
            _note(progress, task, outcome)
            clock.done(task, outcome)
            models.release(plan.jobs[task.hash])
        progress.seconds_left = clock.left(waiting, len(running))
        _tell(watch, progress)


def _ready(waiting: dict[str, Task], plan: Plan, states: dict[str, State]) -> Iterator[Task]:
    for name, task in list(waiting.items()):
        if all(states[need] == "done" for need in plan.jobs[name].needs):
            yield task


def _drop_hopeless(
    waiting: dict[str, Task], plan: Plan, states: dict[str, State], progress: StudyProgress
) -> None:
    """Mark jobs that need a failed job as failed, too."""
    for name in list(waiting):
        if any(states[need] == "failed" for need in plan.jobs[name].needs):
            del waiting[name]
            states[name] = "failed"
            progress.failed += 1


def _note(progress: StudyProgress, task: Task, outcome: Outcome) -> None:
    progress.running.pop(task.label, None)
    if outcome.status == "done":
        progress.done += 1
    else:
        progress.failed += 1
        progress.last_failure = f"{task.label}: {outcome.reason}"


def _tell(watch: Watch | None, progress: StudyProgress) -> None:
    if watch is not None:
        watch(progress)


class _Models:
    """The trained models of a study, deleted once every job that needs them is settled, unless kept."""

    def __init__(self, config: BenchConfig, plan: Plan, states: dict[str, State], store: Store) -> None:
        self._keep, self._plan, self._states, self._store = config.keep_models, plan, states, store
        self._users: dict[str, list[str]] = {}
        for job in plan.jobs.values():
            for need in job.needs:
                self._users.setdefault(need, []).append(job.hash)

    def release(self, job: Job) -> None:
        """Drop the models that only ``job``, which has ended, still needed."""
        if self._keep:
            return
        for need in job.needs:
            settled = all(self._states[user] != "missing" for user in self._users[need])
            if settled and self._states[need] == "done":
                self._store.drop_models(need)
                self._states[need] = "dropped"
