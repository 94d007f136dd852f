"""An append-only log of JSON lines, each with the hash of the line before it, so that changes are noticed.

A line is ``{"n": 7, "at": "2026-01-31T12:00:00+00:00", "previous": HASH, …, "hash": HASH}``. ``hash`` is the
SHA-256 of the line without it, as JSON with sorted keys. To change, insert or take out a line, every later
line must be written anew. A copy of the last hash, kept elsewhere, shows that, too, and a cut end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.storage.files import make_folder, saying, sync

START = "0" * 64
OWN = ("n", "at", "previous", "hash")


class BrokenChain(FedMergeError):
    """A line of a log is not as it was written."""


class ChainedLog:
    """The log in one file, which several processes may append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Mapping[str, Any]) -> str:
        """Write an entry, sync it to the disk, and return its hash.

        A last line that a crash cut in two is taken off first: its ``append`` never returned. Raises
        BrokenChain where the last whole line is damaged, DiskError where nothing can be written, and
        FedMergeError for an entry that names one of the log's own fields.
        """
        from filelock import FileLock

        taken = sorted(set(OWN) & set(entry))
        if taken:
            raise FedMergeError(f"'{taken[0]}' is a field of the log itself: name the entry's otherwise.")
        make_folder(self.path.parent)
        with saying(self.path), FileLock(self.path.with_name(f".{self.path.name}.lock")):
            last, whole = self._last()
            body = {"n": last.get("n", 0) + 1, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            line = _sealed(body | {"previous": last.get("hash", START)} | dict(entry))
            there = self.path.exists()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(whole)
                file.seek(whole)
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if not there:
                sync(self.path.parent)
        return str(line["hash"])

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries, from the first on, checked. Raises BrokenChain for a line that has changed."""
        if not self.path.exists():
            return []
        found: list[dict[str, Any]] = []
        previous = START
        for number, text in enumerate(_lines(self.path.read_bytes()), 1):
            entry = self._read(text, f"line {number}")
            if entry["previous"] != previous or entry["n"] != number:
                raise BrokenChain(
                    f"'{self.path}': line {number} does not follow the one before it: a line was taken out, "
                    "put in or moved."
                )
            previous = entry["hash"]
            found.append(entry)
        return found

    def _last(self) -> tuple[dict[str, Any], int]:
        """Read the file's end: return the last whole entry ({} for none) and the byte where it ends."""
        if not self.path.exists():
            return {}, 0
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            length = 4096
            while True:
                length = min(length, size)
                file.seek(size - length)
                tail = file.read(length)
                lines = _lines(tail)
                if len(lines) > 1 or length == size:  # with one line alone, its start may lie before
                    break
                length *= 2
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        return (self._read(lines[-1], "the last line") if lines else {}), whole if lines else 0

    def _read(self, text: bytes, which: str) -> dict[str, Any]:
        try:
            entry = json.loads(text)
            good = isinstance(entry, dict) and _sealed(entry) == entry and set(OWN) <= set(entry)
        except (ValueError, RecursionError):
            good = False
        if not good:
            raise BrokenChain(f"'{self.path}': {which} is not what was written there.")
        return dict(entry)


def _lines(content: bytes) -> list[bytes]:
    """Return the whole lines; text after the last newline was never finished."""
    return content.split(b"\n")[:-1]


def _sealed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with the hash of all its other fields, as it is read back from JSON."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=True)
    return dict(json.loads(text)) | {"hash": hashlib.sha256(text.encode()).hexdigest()}
