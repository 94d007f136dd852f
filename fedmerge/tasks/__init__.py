"""Tasks: what the outputs of a network mean, and everything that follows from it.

``multiclass`` (one class an image), ``multilabel`` (several findings an image), ``ordinal`` (grades in
order), ``binary`` (one output, yes or no). Everything else asks the task; nothing compares its name.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedmerge.errors import unknown
from fedmerge.tasks.bernoulli import Binary, MultiLabel
from fedmerge.tasks.mark import mark, marked
from fedmerge.tasks.ordinal import Ordinal
from fedmerge.tasks.task import Multiclass, Task

__all__ = [
    "BINARY",
    "MULTICLASS",
    "MULTILABEL",
    "ORDINAL",
    "TASKS",
    "Task",
    "TaskName",
    "mark",
    "task",
    "task_of",
]

TaskName = Literal["multiclass", "multilabel", "ordinal", "binary"]
MULTICLASS, MULTILABEL, ORDINAL, BINARY = Multiclass(), MultiLabel(), Ordinal(), Binary()
TASKS: dict[str, Task] = {each.name: each for each in (MULTICLASS, MULTILABEL, ORDINAL, BINARY)}


def task(name: str) -> Task:
    """Return the task of that name. Raises FedMergeError for an unknown one, with the nearest."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def task_of(model: nn.Module) -> Task:
    """Return the task of a network: the one it is marked with (``mark``), or multiclass."""
    return task(marked(model) or MULTICLASS.name)
