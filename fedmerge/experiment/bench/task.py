"""What a worker gets and what it returns: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A job as a worker gets it. sources: where a cohort's relative paths start. plugins: as text."""

    hash: str
    config: Config
    needs: tuple[str, ...]
    label: str
    store: Path
    sources: Path | None = None
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done, failed, lost or stopped. seconds: its time. stop: why the study stops."""

    hash: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    stop: str = ""
