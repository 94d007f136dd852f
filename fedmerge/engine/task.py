"""A task: its configuration and the tasks whose artifacts it reads, named by a hash of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task of a graph.

    name: 16 hexadecimal digits (``task_of``). config: plain values; ``kind`` is the stage that it does.
    needs: names of the tasks whose artifacts it reads. label: for people, in no hash.
    """

    name: str
    config: Config
    needs: tuple[str, ...]
    label: str

    @property
    def kind(self) -> str:
        """The stage that the task does."""
        return str(self.config["kind"])


def task_of(config: Config, needs: Sequence[str], label: str, *, content: str = "", version: int = 1) -> Task:
    """Return a task with its name: the SHA-256 of all that decides what it makes.

    content: a digest of the data that it reads beside its needs. version: of the stage's meaning; a higher
    one makes every task of the stage a new one.
    """
    decides = {"config": config, "needs": list(needs), "content": content, "version": version}
    text = json.dumps(decides, sort_keys=True)
    return Task(hashlib.sha256(text.encode()).hexdigest()[:16], config, tuple(needs), label)


@dataclass(frozen=True)
class Assignment:
    """A task as a worker gets it, in plain values that travel between processes.

    work: the function that does it, as ``module:name``; it takes an ``Attempt``. store: the folder of the
    store that holds what it needs and takes what it makes. options: what decides no result, such as where it
    computes. resumes: whether files of an interrupted attempt are kept for the next one.
    """

    task: Task
    work: str
    store: Path
    options: Config = field(default_factory=dict)
    resumes: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done, failed, lost (its worker died), stopped, or not at all: again.

    seconds: its time. stop: why no further task can be done here.
    """

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    stop: str = ""
