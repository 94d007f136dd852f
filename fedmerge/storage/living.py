"""Identify a process by more than its number, which is used again, to tell whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Process(BaseModel):
    """A process of a machine. born: when it began, which tells it from others with the same number."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int = Field(ge=1)
    born: str
    host: str

    @property
    def here(self) -> bool:
        """Whether the process is of this machine; whether another machine's lives cannot be told here."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process lives, on this machine; a zombie does not."""
        return self.here and birth(self.pid) == self.born


def process(pid: int | None = None) -> Process:
    """Return the process that has this number now; by default, this one."""
    pid = os.getpid() if pid is None else pid
    return Process(pid=pid, born=birth(pid) or "", host=socket.gethostname())


def birth(pid: int) -> str | None:
    """Return when a living process began, as text that no other process has; None for a dead process.

    It is the boot's id and the ticks since boot where the system has them: setting the clock changes neither.
    """
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        if BOOT.is_file():
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            return f"{BOOT.read_text().strip()}+{ticks}"
        return f"{psutil.Process(pid).create_time():.1f}"
    except (psutil.Error, OSError, IndexError):
        return None
