"""Which process it is that was written down, and whether it still lives: a number alone is given anew."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Process(BaseModel):
    """A process of a machine. born: tells it from every other that has or had its number there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int = Field(ge=1)
    born: str
    host: str

    @property
    def here(self) -> bool:
        """Whether it is one of this machine, of which alone it can be said whether it lives."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it lives, on this machine; one that ended and waits for its parent does not."""
        return self.here and birth(self.pid) == self.born


def process(pid: int | None = None) -> Process:
    """The process with this number now; by default, this one."""
    pid = os.getpid() if pid is None else pid
    return Process(pid=pid, born=birth(pid) or "", host=socket.gethostname())


def birth(pid: int) -> str | None:
    """When a living process began, in words that are equal for the same process alone; None for a dead one.

    The boot and the ticks since then, where the system tells them: a clock that is set does not move these.
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
