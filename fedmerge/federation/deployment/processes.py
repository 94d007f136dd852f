"""Programs that run beside this one: started with a log, ended by their ids with all their children."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.logs import LAST, Log, Reader, pump
from fedmerge.files import write_json
from fedmerge.living import Process, process

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


ERROR = re.compile(r"ERROR|^[\w.]+(Error|Exception): ")
"""In a line of a log, or the last line of a traceback."""


class Program:
    """A program that runs until ``stop``; what it says goes to the end of its log, with the time.

    reader: how its lines are read (``logs``).
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, reader: Reader | None = None
    ) -> None:
        """Start it. Raises FedMergeError where there is no such program."""
        module = command[list(command).index("-m") + 1] if "-m" in command else None
        self.name = module.rpartition(".")[2] if module else Path(command[0]).name
        self.log = log
        self._last = deque[str](maxlen=LAST)
        try:
            self.process = subprocess.Popen(
                command,
                env={**env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise FedMergeError(f"'{command[0]}' cannot be started ({error.strerror}).") from None
        said = (self.process.stdout, Log(log), reader or Reader(), self._last)
        self._pump = threading.Thread(target=pump, args=said, daemon=True, name=f"log of {self.name}")
        self._pump.start()

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
        """Its last error and what follows it, or else the last lines of what it said, in one."""
        if not self.running:
            self._pump.join(2.0)  # the last is still on its way
        said = list(self._last)
        errors = [number for number, line in enumerate(said) if ERROR.search(line)]
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
        self._pump.join(30.0)  # all that could speak has ended

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Programs(ExitStack):
    """Several programs that end together, the last started first.

    known: a file that says which they are, so that those are found that outlive this process.
    """

    def __init__(self, known: Path | None = None) -> None:
        super().__init__()
        self.known = known
        self._started: list[Program] = []

    def start(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, reader: Reader | None = None
    ) -> Program:
        """Start one more."""
        program = self.enter_context(Program(command, env, log, reader))
        self._started.append(program)
        if self.known is not None:
            found = {each.name: process(each.process.pid).model_dump() for each in self._started}
            write_json(self.known, {"start": process().model_dump(), "programs": found})
        return program


def leftovers(known: Path) -> list[Process]:
    """The programs in the file of a process that is gone, which should have ended with it, and have not."""
    return [program for program in started(known)[1].values() if program.alive]


def started(known: Path) -> tuple[Process | None, dict[str, Process]]:
    """Which process started programs last, as ``Programs`` wrote it down, and these by name."""
    try:
        found = json.loads(known.read_text(encoding="utf-8"))
        programs = {str(name): Process.model_validate(each) for name, each in found["programs"].items()}
        return Process.model_validate(found["start"]), programs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}


def end(programs: Sequence[Process]) -> None:
    """End programs of an earlier process, with their children; none that only has the number of one."""
    family: list[psutil.Process] = []
    for program in programs:
        with suppress(psutil.Error):
            found = psutil.Process(program.pid)
            if program.alive:
                family += [found, *found.children(recursive=True)]
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                ask(member)
        _, family = psutil.wait_procs(family, timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return [*psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
