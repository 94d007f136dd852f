"""Where a study stands, for whoever watches: what runs, what is done, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedmerge.experiment.bench.task import Outcome, Task


@dataclass
class StudyProgress:
    """Where a study stands. jobs: all of it; running: label and start (``time.monotonic``) of each."""

    jobs: int
    done: int
    failed: int = 0
    running: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    last_failure: str = ""

    @property
    def left(self) -> int:
        """Jobs that are neither done nor failed."""
        return self.jobs - self.done - self.failed


Watch = Callable[[StudyProgress], None]


class Clock:
    """Time left, from the mean seconds of each kind of job so far."""

    def __init__(self, tasks: dict[str, Task], slots: int) -> None:
        self._slots = slots
        self._seconds: dict[str, list[float]] = {}

    def done(self, task: Task, outcome: Outcome) -> None:
        """Take a finished job into account."""
        self._seconds.setdefault(sort_of(task), []).append(outcome.seconds)

    def left(self, waiting: dict[str, Task], running: int) -> float | None:
        """Seconds for what waits; None before anything is known."""
        if not self._seconds:
            return None
        means = {sort: sum(values) / len(values) for sort, values in self._seconds.items()}
        usual = sum(means.values()) / len(means)
        total = sum(means.get(sort_of(task), usual) for task in waiting.values()) + usual * running / 2
        return total / self._slots


def sort_of(task: Task) -> str:
    return f"{task.config['kind']} {task.config['experiment']['model']['name']}"
