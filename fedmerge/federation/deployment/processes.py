"""Start programs with a log, and end them by their ids with all their children."""

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
from fedmerge.storage.files import write_json
from fedmerge.storage.living import Process, process

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else every run creates its own environment
    "RAY_USAGE_STATS_ENABLED": "0",
}


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of Flower's programs: ``home`` as their folder, no telemetry, our Python first.

    Flower finds its programs through PATH.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **OFFLINE, "FLWR_HOME": str(home.resolve()), "PATH": path, **more}


ERROR = re.compile(r"ERROR|^[\w.]+(Error|Exception): ")
"""An error in a line of a log, or the last line of a traceback."""


class Program:
    """A program that runs until ``stop``; its output is appended to its log, with the time.

    reader: turns its output into log lines (``logs``).
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, reader: Reader | None = None
    ) -> None:
        """Start the program. Raises FedMergeError if it cannot be started."""
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
        """Whether the program has not ended yet."""
        return self.process.poll() is None

    def wait_until(self, ready: Callable[[], bool], patience: float, what: str) -> None:
        """Wait until ``ready()``. Raises FedMergeError if the program ends, or after ``patience`` seconds."""
        until = time.monotonic() + patience
        while not ready():
            if not self.running or time.monotonic() > until:
                state = "did not" if self.running else "ended and did not"
                raise FedMergeError(f"{self.name} {state} {what}: {self.last_words()} (log: {self.log})")
            time.sleep(0.1)

    def last_words(self, lines: int = 5) -> str:
        """Return the program's last error and the lines after it, or else its last lines, in one line."""
        if not self.running:
            self._pump.join(2.0)  # its last output may not be read yet
        said = list(self._last)
        errors = [number for number, line in enumerate(said) if ERROR.search(line)]
        said = said[errors[-1] :][:lines] if errors else said[-lines:]
        return " / ".join(line.strip() for line in said if line.strip())

    def stop(self, patience: float = 10.0) -> None:
        """End the program and every process it started: terminate, then kill."""
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
        self._pump.join(30.0)  # every process with the log has ended

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Programs(ExitStack):
    """Several programs that end together, the last started first.

    known: a file that lists them, so that programs that outlive this process are found.
    """

    def __init__(self, known: Path | None = None) -> None:
        super().__init__()
        self.known = known
        self._started: list[Program] = []

    def start(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, reader: Reader | None = None
    ) -> Program:
        """Start one more program."""
        program = self.enter_context(Program(command, env, log, reader))
        self._started.append(program)
        if self.known is not None:
            found = {each.name: process(each.process.pid).model_dump() for each in self._started}
            write_json(self.known, {"start": process().model_dump(), "programs": found})
        return program


def leftovers(known: Path) -> list[Process]:
    """Return the programs of an ended process that outlived it. known: its file."""
    return [program for program in started(known)[1].values() if program.alive]


def started(known: Path) -> tuple[Process | None, dict[str, Process]]:
    """Return the process in the file of ``Programs``, and the programs that it started, by name."""
    try:
        found = json.loads(known.read_text(encoding="utf-8"))
        programs = {str(name): Process.model_validate(each) for name, each in found["programs"].items()}
        return Process.model_validate(found["start"]), programs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}


def end(programs: Sequence[Process]) -> None:
    """End programs of an earlier process with their children, but no other process with the same id."""
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
