"""What goes on in a graph: events for whoever subscribes, and an estimate of the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from fedmerge.engine.task import Outcome, Task


@dataclass
class GraphProgress:
    """The progress of a graph. jobs: how many tasks in all; running: start (``time.monotonic``) by label."""

    jobs: int
    done: int
    failed: int = 0
    running: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    last_failure: str = ""

    @property
    def left(self) -> int:
        """Tasks that are neither done nor failed."""
        return self.jobs - self.done - self.failed


@dataclass(frozen=True)
class Event:
    """One event. kind: a task was started; ended, or is to be done again (with its outcome); or time went by.

    progress: of the whole graph, up to date; it is the same object in every event.
    """

    kind: Literal["started", "ended", "again", "tick"]
    progress: GraphProgress
    task: Task | None = None
    outcome: Outcome | None = None


Subscriber = Callable[[Event], None]
"""Called in the process that schedules, at every start and end of a task, and about twice a second."""


class Clock:
    """An estimate of the time left, from the mean seconds of each sort of task so far."""

    def __init__(self, slots: int, sort: Callable[[Task], str]) -> None:
        self._slots, self._sort = slots, sort
        self._seconds: dict[str, list[float]] = {}

    def done(self, task: Task, outcome: Outcome) -> None:
        """Add the seconds of a task that has ended."""
        self._seconds.setdefault(self._sort(task), []).append(outcome.seconds)

    def left(self, waiting: Iterable[Task], running: int) -> float | None:
        """Return the seconds left for waiting and running tasks; None before the first has ended."""
        if not self._seconds:
            return None
        means = {sort: sum(values) / len(values) for sort, values in self._seconds.items()}
        usual = sum(means.values()) / len(means)
        total = sum(means.get(self._sort(task), usual) for task in waiting) + usual * running / 2
        return total / self._slots
