"""The registry of test-time methods."""

from __future__ import annotations

from fedmerge.errors import FedMergeError
from fedmerge.registry import Registry
from fedmerge.tasks import MULTICLASS, Task

TESTTIME = Registry(
    "test-time", "test-time method", "fedmerge.testtime", ("observe", "reset"), any_task=False
)


def check_fits(method: type, task: Task) -> None:
    """Raise FedMergeError where a registered method is not for the task of the models it is given."""
    if task is MULTICLASS:
        return
    for known in TESTTIME:
        if known.call is method and (why := known.misfit(task.name)):
            raise FedMergeError(f"{known.name} is not for task {task.name}: {why}.")
