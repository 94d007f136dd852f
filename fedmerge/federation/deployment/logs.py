"""Logs of bounded size: the output of programs, line by line, with time, level, hospital and run.

    2026-03-01T12:00:07Z INFO    north run=17 round=3 | Receiving: train message
    2026-03-01T12:00:09Z WARNING -     run=17         | ...

A log is its file and a few older ones, ``superlink.log.1`` and so on.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, ClassVar

from fedmerge.errors import FedMergeError

BYTES, KEPT = 10_000_000, 5  # bytes of one file; number of older files
LONGEST = 4000  # characters of a line
LAST = 200  # lines of a program that are kept in memory
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LEVEL = re.compile(r"(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)\s*:\s*(.*)")
STAMPED = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
RUN = re.compile(r"\[RUN (\d+)(?:, ROUND ([^\]]*))?\]")
NODE = re.compile(r"\bnode_id=(\d+)")
OURS = re.compile(r"\[(\S+)\] (?=\S)")  # as FlowerGrid writes about a hospital
LINE = re.compile(r"(\S+) (\S+) +(\S+)((?: (?:run|round)=\S*)*) *\| ?(.*)")
Name = Callable[[int], str | None]


class Reader:
    """Turns a program's output into log lines.

    whose: the owner of lines that name nobody. name: returns a node's hospital; None if unknown.
    """

    def __init__(self, whose: str = "-", name: Name = lambda node: None) -> None:
        self.whose, self.name = whose, name
        self._level, self._where = "INFO", ""

    def line(self, said: str) -> str | None:
        """Return one log line without its time; None if empty. Lines without a level keep the last level."""
        text = _printable(COLOUR.sub("", said).expandtabs(4).rstrip())
        if (found := LEVEL.match(text) or STAMPED.match(text)) is not None:
            self._level, text = found[1].replace("WARNING", "WARN"), found[2].strip()
        if (where := RUN.search(text)) is not None:
            self._where = f" run={where[1]}" + (f" round={where[2]}" if where[2] else "")
            text = text.replace(where[0], "", 1).strip()
        whose = self.whose
        if (node := NODE.search(text)) is not None:
            whose = self.name(int(node[1])) or whose
        elif where is not None and (ours := OURS.match(text)) is not None:
            whose, text = ours[1], text[ours.end() :]
        if not text.strip():
            return None
        return f"{self._level.replace('WARN', 'WARNING'):8}{whose}{self._where} | {text[:LONGEST]}"


def _printable(text: str) -> str:
    """Return text with escapes for unprintable characters, so that a node's text stays on its line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class _Quiet(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line: a full disk must not stop the program."""


class Log:
    """A log file: lines get the time, old files are deleted. Lines that the disk refuses are dropped.

    Several logs of one path in a process share a file handler: else each would rotate the others' file.
    """

    _open: ClassVar[dict[Path, tuple[_Quiet, int]]] = {}
    _lock = threading.Lock()

    def __init__(self, path: Path, size: int = BYTES, kept: int = KEPT) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path.resolve()
        with self._lock:
            if self.path in self._open:
                self._handler, users = self._open[self.path]
            else:
                given = {"maxBytes": size, "backupCount": kept, "encoding": "utf-8", "errors": "replace"}
                self._handler, users = _Quiet(path, **given), 0  # type: ignore[arg-type]
            self._open[self.path] = self._handler, users + 1

    def write(self, line: str) -> None:
        """Write a line with the time."""
        text = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}"
        self._handler.handle(logging.LogRecord("", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Close the file if nobody else in this process writes to it."""
        with self._lock:
            handler, users = self._open.pop(self.path)
            if users > 1:
                self._open[self.path] = handler, users - 1
                return
        with suppress(OSError):
            handler.close()


def pump(source: IO[bytes], log: Log, reader: Reader, last: deque[str]) -> None:
    """Copy a program's output to its log until it ends, and the raw lines to ``last``."""
    for said in iter(lambda: source.readline(64 * LONGEST), b""):
        text = said.decode("utf-8", "replace")
        line = reader.line(text)
        if line is not None:
            last.append(COLOUR.sub("", text).rstrip())
            log.write(line)
    log.close()


def files(path: Path) -> list[Path]:
    """Return the files of a log, the oldest first."""
    older = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit() and p.is_file()]
    older.sort(key=lambda p: -int(p.suffix[1:]))
    return older + ([path] if path.is_file() else [])


def lines(logs: list[Path], since: datetime | None = None) -> list[str]:
    """Return the lines of several logs in order of time, each with its log's name; since: not before."""
    found: list[tuple[str, int, str]] = []
    for log in logs:
        for file in files(log):
            for said in file.read_text(encoding="utf-8", errors="replace").splitlines():
                parts = LINE.match(said)
                when = parts[1] if parts else (found[-1][0] if found else "")
                if since is None or when >= f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}":
                    found.append((when, len(found), f"{log.stem}: {said}"))
    return [said for _, _, said in sorted(found)]


def follow(logs: list[Path], pause: float = 0.5) -> Iterator[str]:
    """Yield new lines of logs as they are written, also after a rotation."""
    known: dict[Path, tuple[int, int]] = {}
    for log in logs:
        if log.is_file():
            known[log] = (log.stat().st_ino, log.stat().st_size)
    while True:
        for log in logs:
            yield from (f"{log.stem}: {line}" for line in _new(log, known))
        time.sleep(pause)


def _new(log: Path, known: dict[Path, tuple[int, int]]) -> list[str]:
    """Return the whole lines since the last call, first those at the end of a rotated file."""
    found: list[bytes] = []
    number, position = known.get(log, (0, 0))
    for file in files(log):
        try:
            with file.open("rb") as opened:
                inode = os.fstat(opened.fileno()).st_ino
                if inode != number and file != log:
                    continue
                start = position if inode == number else 0
                opened.seek(start)
                content = opened.read()
        except OSError:  # it was rotated just now
            continue
        whole = content.rfind(b"\n") + 1
        found += content[:whole].splitlines()
        known[log] = (inode, start + whole)
    return [line.decode("utf-8", "replace") for line in found]


def moment(text: str, now: datetime | None = None) -> datetime:
    """Return the time of ``--since``: 2026-03-01T12:00, or 30s, 10m, 2h, 3d ago. Raises FedMergeError."""
    now = now or datetime.now(UTC)
    if (ago := re.fullmatch(r"(\d{1,6})([smhd])", text.strip())) is not None:
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
        return datetime.fromtimestamp(now.timestamp() - int(ago[1]) * unit, UTC)
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise FedMergeError(f"'{text}' is no time: write 10m, 2h, 3d, or 2026-03-01T12:00.") from None


def about(line: str, hospital: str | None = None, run: int | None = None) -> bool:
    """Check whether a line from ``lines`` is about this hospital and this run."""
    found = LINE.match(line.partition(": ")[2])
    if found is None:
        return hospital is None and run is None
    return hospital in (None, found[3]) and (run is None or f"run={run}" in found[4].split())
