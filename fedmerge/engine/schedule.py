"""Hand tasks to an executor, each as soon as what it needs is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from fedmerge.engine.events import Clock, Event, GraphProgress, Subscriber
from fedmerge.engine.executors import Executor
from fedmerge.engine.graph import Graph
from fedmerge.engine.store import State, Store, StoreStopped
from fedmerge.engine.task import Assignment, Outcome, Task

TICK = 0.5  # seconds


class Schedule:
    """One execution of a graph's tasks.

    states: of all tasks; it is kept up to date. store: takes the record of a task whose worker died; None
    where all are done in this process. keep: whether the models of a task stay when nothing needs them any
    more. sort: tasks of one sort take about the same time.
    """

    def __init__(
        self,
        graph: Graph,
        states: dict[str, State],
        store: Store | None = None,
        subscribers: Sequence[Subscriber] = (),
        *,
        keep: bool = True,
        sort: Callable[[Task], str] = lambda task: task.kind,
    ) -> None:
        self.graph, self.states, self.store, self.keep, self.sort = graph, states, store, keep, sort
        self._subscribers, self._users = subscribers, graph.users()

    def execute(self, assignments: Mapping[str, Assignment], executor: Executor) -> None:
        """Do these tasks, in the graph's order where needs allow it. A task that needs a failed one fails.

        Raises StoreStopped where the store cannot be written; every finished task is kept.
        """
        others = [self.states[name] for name in self.graph.tasks if name not in assignments]
        done = sum(state in ("done", "dropped") for state in others)
        self.progress = GraphProgress(len(self.graph.tasks), done, others.count("failed"))
        self.states |= dict.fromkeys(assignments, "missing")
        clock, waiting = Clock(executor.slots, self.sort), dict(assignments)
        running: dict[Future[Outcome], Assignment] = {}
        while waiting or running:
            for name in self._ready(waiting):
                if len(running) >= executor.slots:
                    break
                if not executor.takes(waiting[name].task):
                    continue
                given = waiting.pop(name)
                self.progress.running[given.task.label] = time.monotonic()
                self._tell("started", given.task)
                running[executor.submit(given)] = given
            self._drop_hopeless(waiting)
            for future in executor.wait(running, TICK):
                given, outcome = running.pop(future), future.result()
                if outcome.status == "again":
                    waiting = {given.task.name: given} | waiting
                    self._tell("again", given.task, outcome)
                else:
                    self._ended(given.task, outcome, clock, executor)
            left = [given.task for given in waiting.values()]
            self.progress.seconds_left = clock.left(left, len(running))
            self._tell("tick")

    def _ready(self, waiting: Mapping[str, Assignment]) -> Iterator[str]:
        for name, given in list(waiting.items()):
            if all(self.states[need] == "done" for need in given.task.needs):
                yield name

    def _drop_hopeless(self, waiting: dict[str, Assignment]) -> None:
        """Mark tasks that need a failed one as failed, too."""
        for name, given in list(waiting.items()):
            if any(self.states[need] == "failed" for need in given.task.needs):
                del waiting[name]
                self.states[name] = "failed"
                self.progress.failed += 1

    def _ended(self, task: Task, outcome: Outcome, clock: Clock, executor: Executor) -> None:
        if outcome.stop:
            raise StoreStopped(outcome.stop)
        if outcome.status == "lost" and self.store is not None:
            reason = f"{task.label}: {outcome.reason}"  # no code of the task was left to name it
            lost = {"label": task.label, "config": task.config, "reason": reason}
            self.store.finish(task.name, self.store.part(task.name), lost, "failed")
        good = outcome.status == "done"
        self.states[task.name] = "done" if good else "failed"
        self.progress.running.pop(task.label, None)
        if good:
            self.progress.done += 1
        else:
            self.progress.failed += 1
            self.progress.last_failure = f"{task.label}: {outcome.reason}"
        clock.done(task, outcome)
        self._release(task, executor)
        self._tell("ended", task, outcome)

    def _release(self, task: Task, executor: Executor) -> None:
        """Let go of what only this task, which has ended, still needed."""
        for need in task.needs:
            if all(self.states[user] != "missing" for user in self._users[need]):
                executor.forget(need)
                if self.store is not None and not self.keep and self.states[need] == "done":
                    self.store.drop_models(need)
                    self.states[need] = "dropped"

    def _tell(
        self,
        kind: Literal["started", "ended", "again", "tick"],
        task: Task | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        for subscriber in self._subscribers:
            subscriber(Event(kind, self.progress, task, outcome))
