"""What is handed to a worker, and what comes back: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A job as it is handed to whoever does it. sources: where a cohort's relative paths start."""

    hash: str
    config: Config
    needs: tuple[str, ...]
    label: str
    store: Path
    sources: Path | None = None
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done, failed or stopped. seconds: its own time. stop: why the study cannot go on."""

    hash: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    stop: str = ""
