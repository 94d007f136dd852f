"""Executors: they do tasks in this process, in worker processes of this machine or beside it, or on Ray."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

from fedmerge.engine.task import Assignment, Outcome, Task


class Executor(Protocol):
    """An executor does ``slots`` tasks at a time; each is answered by a future Outcome.

    A worker that dies gives its task the outcome "lost"; it raises nothing and ends no other task. A task
    with the outcome "again" is to be submitted once more.
    """

    slots: int

    def takes(self, task: Task) -> bool:
        """Whether this task can start now, where fewer than ``slots`` are running."""
        return True

    def wait(self, running: Collection[Future[Outcome]], seconds: float) -> Collection[Future[Outcome]]:
        """Return those that have ended: as soon as there is one, and after these seconds at most."""
        return wait(running, timeout=seconds, return_when=FIRST_COMPLETED).done

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Start a task; at most ``slots`` may be running."""
        ...

    def forget(self, name: str) -> None:
        """Let go of a task's artifact, which no further task needs."""
        ...

    def close(self) -> None:
        """End the workers at once; the work of running tasks is lost."""
        ...
