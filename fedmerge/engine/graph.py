"""The graph of tasks: which are still to do, and who needs what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedmerge.engine.store import State
from fedmerge.engine.task import Task


@dataclass(frozen=True)
class Graph:
    """All tasks by name, each after those it needs."""

    tasks: dict[str, Task]

    def needing(self, names: Iterable[str]) -> dict[str, None]:
        """Return these tasks and all that they need, directly or not, in the graph's order."""
        wanted, open_ = set(), list(names)
        while open_:
            name = open_.pop()
            if name not in wanted:
                wanted.add(name)
                open_ += self.tasks[name].needs
        return {name: None for name in self.tasks if name in wanted}

    def to_do(self, wanted: Iterable[str], states: Mapping[str, State], retry: bool) -> dict[str, None]:
        """Return the wanted tasks that are not done, and what these need and is not there, in order.

        retry: failed tasks count as not done. A need whose models were dropped is done again.
        """
        again: set[State] = {"missing", "failed"} if retry else {"missing"}
        open_ = [name for name in wanted if states[name] in again]
        todo: set[str] = set()
        while open_:
            name = open_.pop()
            if name not in todo:
                todo.add(name)
                open_ += [need for need in self.tasks[name].needs if states[need] in {"dropped", *again}]
        return {name: None for name in self.tasks if name in todo}

    def users(self) -> dict[str, list[str]]:
        """Return the names of the tasks that need each task."""
        found: dict[str, list[str]] = {}
        for task in self.tasks.values():
            for need in task.needs:
                found.setdefault(need, []).append(task.name)
        return found
