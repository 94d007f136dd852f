"""Programs that run beside this one: started with a log, ended by their ids with all their children."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil

from fedmerge.errors import FedMergeError

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else every run makes an environment of its own
    "RAY_USAGE_STATS_ENABLED": "0",
}


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of Flower's programs: ``home`` as their own folder, nobody called, our Python first.

    Flower finds its programs through PATH.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **OFFLINE, "FLWR_HOME": str(home.resolve()), "PATH": path, **more}


class Program:
    """A program that runs until ``stop``; what it says goes to the end of its log."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start it. Raises FedMergeError where there is no such program."""
        self.name = Path(command[0]).name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as file:
                self.process = subprocess.Popen(
                    command, env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
                )
        except OSError as error:
            raise FedMergeError(f"'{command[0]}' cannot be started ({error.strerror}).") from None

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait_until(self, ready: Callable[[], bool], patience: float, what: str) -> None:
        """Wait until ``ready()``. Raises FedMergeError if it ends or is not ready in ``patience`` seconds."""
        until = time.monotonic() + patience
        while not ready():
            if not self.running or time.monotonic() > until:
                state = "did not" if self.running else "ended and did not"
                raise FedMergeError(f"{self.name} {state} {what}: {self.last_words()} (log: {self.log})")
            time.sleep(0.1)

    def last_words(self, lines: int = 5) -> str:
        """Its last error and what follows it, or else the last lines of its log, in one."""
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [number for number, line in enumerate(said) if "ERROR" in line]
        said = said[errors[-1] :][:lines] if errors else said[-lines:]
        return " / ".join(line.strip() for line in said if line.strip())

    def stop(self, patience: float = 10.0) -> None:
        """End it and every process it started, gently first."""
        family = _family(self.process.pid)
        with suppress(psutil.NoSuchProcess):
            if self.running:
                self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for ask in (psutil.Process.terminate, psutil.Process.kill):
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    ask(member)
            _, family = psutil.wait_procs(family, timeout=3)
        self.process.wait()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Programs(ExitStack):
    """Several programs that end together, the last started first."""

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Program:
        """Start one more."""
        return self.enter_context(Program(command, env, log))


def _family(pid: int) -> list[psutil.Process]:
    try:
        return [*psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
