"""Executors: they do tasks in this process, in worker processes of this machine, or on Ray."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from fedmerge.engine.task import Assignment, Outcome


class Executor(Protocol):
    """An executor does ``slots`` tasks at a time; each is answered by a future Outcome.

    A worker that dies gives its task the outcome "lost"; it raises nothing and ends no other task.
    """

    slots: int

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Start a task; at most ``slots`` may be running."""
        ...

    def forget(self, name: str) -> None:
        """Let go of a task's artifact, which no further task needs."""
        ...

    def close(self) -> None:
        """End the workers at once; the work of running tasks is lost."""
        ...
