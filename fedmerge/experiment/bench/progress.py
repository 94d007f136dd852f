"""The progress of a study: the jobs that run, those that are done, and the time the rest will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedmerge.experiment.bench.task import Outcome, Task


@dataclass
class StudyProgress:
    """The progress of a study. jobs: how many in all; running: start (``time.monotonic``) by label."""

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
    """An estimate of the time left, from the mean seconds of each kind of job so far."""

    def __init__(self, tasks: dict[str, Task], slots: int) -> None:
        self._slots = slots
        self._seconds: dict[str, list[float]] = {}

    def done(self, task: Task, outcome: Outcome) -> None:
        """Add the seconds of a finished job."""
        self._seconds.setdefault(sort_of(task), []).append(outcome.seconds)

    def left(self, waiting: dict[str, Task], running: int) -> float | None:
        """Return the seconds left for waiting and running jobs; None before the first job has finished."""
        if not self._seconds:
            return None
        means = {sort: sum(values) / len(values) for sort, values in self._seconds.items()}
        usual = sum(means.values()) / len(means)
        total = sum(means.get(sort_of(task), usual) for task in waiting.values()) + usual * running / 2
        return total / self._slots


def sort_of(task: Task) -> str:
    return f"{task.config['kind']} {task.config['experiment']['model']['name']}"
