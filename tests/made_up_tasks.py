"""Made-up tasks for tests of the engine: a task adds up what it needs, and its own number."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from fedmerge.engine.attempt import Attempt
from fedmerge.engine.graph import Graph
from fedmerge.engine.schedule import Schedule
from fedmerge.engine.store import Store, StoreStopped
from fedmerge.engine.task import Assignment, Task, task_of
from fedmerge.errors import FedMergeError
from fedmerge.storage.files import write_text

runs: list[str] = []
"""The labels of the tasks done in this process, in order."""


def add(attempt: Attempt) -> None:
    """Write the sum. options: ``die``, a file; the process that finds it removes it and dies. ``stop``: why
    no task can be done here.
    """
    runs.append(attempt.task.label)
    number = attempt.task.config["number"]
    if why := attempt.options.get("stop"):
        raise StoreStopped(why)
    if number < 0:
        raise FedMergeError("a number below 0.")
    if (die := attempt.options.get("die")) and Path(die).exists():
        Path(die).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    before = sum(attempt.store.read(need, "sum.json") for need in attempt.task.needs)
    write_text(attempt.folder / "sum.json", json.dumps(number + before))
    write_text(attempt.folder / "sum.safetensors", "weights")
    attempt.record["number"] = number


def end(attempt: Attempt) -> None:
    """End the process. options: ``how``: ``exit CODE`` or ``signal NUMBER``."""
    how, number = attempt.options["how"].split()
    if how == "exit":
        os._exit(int(number))
    os.kill(os.getpid(), int(number))


def alike() -> dict[str, str]:
    """Return what is the same on every machine of a test."""
    return {"tests": "1"}


def number(value: int, *needs: Task) -> Task:
    """Return a task."""
    return task_of({"kind": "add", "number": value}, [need.name for need in needs], f"add {value}")


def graph_of(*tasks: Task) -> Graph:
    """Return the graph of tasks."""
    return Graph({task.name: task for task in tasks})


def diamond() -> tuple[Task, Task, Task, Task]:
    """Return a task, two that need it, and one that needs both: 4 + (2 + 1) + (3 + 1) = 11."""
    first = number(1)
    left, right = number(2, first), number(3, first)
    return first, left, right, number(4, left, right)


def execute(graph, folder, executor, *, retry=False, options=None, **more):
    """Do what the last task needs; return the store, the states and the events."""
    store = Store(folder)
    states = store.states(graph.tasks)
    todo = graph.to_do(list(graph.tasks)[-1:], states, retry=retry)
    events = []
    schedule = Schedule(graph, states, store, [events.append], **more)
    given = {name: Assignment(graph.tasks[name], "made_up_tasks:add", folder, options or {}) for name in todo}
    schedule.execute(given, executor)
    return store, states, events
