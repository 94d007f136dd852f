"""An executor that works in this process and, at the same time, in worker processes beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace

from fedmerge.engine.executors import Executor
from fedmerge.engine.executors.processes import Processes
from fedmerge.engine.task import Assignment, Outcome, Task


class Beside(Executor):
    """Tasks one after the other in this process, and some of them in workers meanwhile.

    perform: does a task here; what it raises ends the schedule. workers: those that do a task there; what one
    could not do, for whatever reason, is done here. may: whether a task may be done there.
    """

    def __init__(
        self,
        perform: Callable[[Assignment], Outcome],
        workers: Processes,
        may: Callable[[Task], bool],
    ) -> None:
        self.slots = 1 + workers.slots
        self._perform, self._workers, self._may = perform, workers, may
        self._here: tuple[Assignment, Future[Outcome]] | None = None
        self._reliable = True

    def takes(self, task: Task) -> bool:
        """Whether a worker is free for the task, or this process."""
        return self._here is None or self._there(task)

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Give the task to a free worker; else note it: ``wait`` does it here."""
        answer: Future[Outcome] = Future()
        if self._there(assignment.task):
            self._workers.submit(assignment).add_done_callback(
                lambda future: answer.set_result(self._checked(future.result()))
            )
        else:
            self._here = (assignment, answer)
        return answer

    def wait(self, running: Collection[Future[Outcome]], seconds: float) -> Collection[Future[Outcome]]:
        """Do the task that is to be done here; then, or where there is none, see ``Executor``."""
        if self._here is not None:
            (assignment, answer), self._here = self._here, None
            answer.set_result(self._perform(assignment))
        return super().wait(running, seconds)

    def forget(self, name: str) -> None:
        """Do nothing: artifacts lie in the store."""

    def close(self) -> None:
        """Do nothing: the workers are the caller's."""

    def _there(self, task: Task) -> bool:
        return self._reliable and self._may(task) and self._workers.takes(task)

    def _checked(self, outcome: Outcome) -> Outcome:
        if outcome.status != "lost":
            return outcome
        self._reliable = False
        return replace(outcome, status="again")
