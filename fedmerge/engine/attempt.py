"""One attempt at a task: from its assignment to files in the store."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge.engine.store import Store, StoreStopped, said
from fedmerge.engine.task import Assignment, Config, Outcome, Task
from fedmerge.errors import FedMergeError
from fedmerge.storage.disk import DiskError, full


@dataclass(frozen=True)
class Attempt:
    """What the function of a task gets.

    folder: takes its files. store: holds what it needs. options: of the assignment. record: a mapping to
    fill, which becomes ``job.json``, also where the task fails.
    """

    task: Task
    folder: Path
    store: Store
    options: Config
    record: dict[str, Any] = field(default_factory=dict)


def do(assignment: Assignment) -> Outcome:
    """Do a task and put its folder into the store. A task that fails is an outcome, too, never an exception.

    A disk that is full or cannot be written is no failure of the task, nor is a StoreStopped of the task's
    function: it stops the work, and the task is still to do.
    """
    began, task = time.perf_counter(), assignment.task
    record: dict[str, Any] = {"label": task.label, "config": task.config, "needs": list(task.needs)}
    reason, part, store = "", None, None
    try:
        store = Store(assignment.store)
        part = store.part(task.name, keep=assignment.resumes)
        with said(assignment.store):
            try:
                function_of(assignment.work)(Attempt(task, part, store, assignment.options, record))
            except Exception as error:
                if isinstance(error, DiskError | StoreStopped) or full(error):
                    raise
                reason = (
                    str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
                )
        seconds = time.perf_counter() - began
        if reason:
            part = store.part(task.name)  # of a failed task the record alone is kept
        store.finish(
            task.name, part, record | {"seconds": seconds, "reason": reason}, "failed" if reason else "done"
        )
    except StoreStopped as error:
        if part is not None and store is not None and not assignment.resumes:
            store.room.remove_tree(part)
        return Outcome(task.name, "stopped", stop=str(error))
    return Outcome(task.name, "failed" if reason else "done", reason, time.perf_counter() - began)


def function_of(name: str) -> Callable[..., Any]:
    """Import the function that ``module:name`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
