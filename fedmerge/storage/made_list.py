"""``made.jsonl``: the files that a folder's own processes made, a line for each.

{"id": "6f…", "mark": "…"}                     the folder's id, and the mark of its user (``home``)
{"made": "seed-0/pool/a.json", "sha256": "…"}  before the file gets its name
{"removed": PATH}, {"moved": [FROM, TO]}       likewise before it happens
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import fedmerge.storage.home as home
from fedmerge.storage.disk import Foreign
from fedmerge.storage.places import FILE, Place, opened

MADE = "made.jsonl"


class MadeList:
    """The list of one folder, to which several processes may add.

    made: SHA-256 by path. gone: paths that were, or were about to be, removed. id: the folder's id.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        found = os.stat(root)
        self.identity = (found.st_dev, found.st_ino)
        self.lock = threading.RLock()
        self.made: dict[str, str] = {}
        self.gone: set[str] = set()
        self.id = ""
        self._mark = ""
        self._read = 0

    @property
    def begun_here(self) -> bool:
        """Whether this user began the folder on this machine, and it was not moved since."""
        return bool(self.id) and home.is_mark(self._mark, self._said(self.id))

    def begin(self) -> None:
        """Make the list where there is none yet. Raises OSError, Foreign."""
        os.close(self._open(os.O_RDWR | os.O_APPEND))

    def note(self, entry: dict[str, Any]) -> None:
        """Add a line and sync it to the disk. Raises OSError, Foreign."""
        with self.lock:
            fd = self._open(os.O_RDWR | os.O_APPEND)
            try:
                size = os.fstat(fd).st_size
                cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # the machine stopped within a line
                _write_all(fd, (b"\n" if cut else b"") + json.dumps(entry).encode() + b"\n")
                os.fsync(fd)
            finally:
                os.close(fd)

    def read(self) -> MadeList:
        """Read the lines added since the last time, by this process or another. Raises Foreign."""
        with self.lock, suppress(OSError):
            fd = self._open(os.O_RDONLY)
            try:
                size = os.fstat(fd).st_size
                if size < self._read:
                    self.made, self.gone, self._read, self.id = {}, set(), 0, ""
                new = os.pread(fd, size - self._read, self._read)
            finally:
                os.close(fd)
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.split(b"\n"):
                with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    self._take(json.loads(line))
        return self

    def _take(self, entry: dict[str, Any]) -> None:
        named = [entry.get("made", "x"), entry.get("removed", "x"), *entry.get("moved", ())]
        if any(not path or path.startswith("/") or ".." in path.split("/") for path in named):
            return  # FedMerge writes no such line
        if "made" in entry:
            self.made[str(entry["made"])] = str(entry["sha256"])
            self.gone.discard(str(entry["made"]))
        elif "removed" in entry:
            self.made.pop(str(entry["removed"]), None)
            self.gone.add(str(entry["removed"]))
        elif "moved" in entry:
            source, target = (f"{each}/" for each in entry["moved"])
            for path in [path for path in self.made if path.startswith(source)]:
                now = target + path.removeprefix(source)
                self.made[now] = self.made.pop(path)
                self.gone.discard(now)  # one that was removed there before is no leftover any more
        elif not self.id and re.fullmatch(r"[0-9a-f]{16}", str(entry["id"])):
            self.id, self._mark = str(entry["id"]), str(entry["mark"])

    def _said(self, name: str) -> str:
        return f"{name} {self.identity[0]} {self.identity[1]}"

    def _open(self, flags: int) -> int:
        """Open the list; make it first where there is none and it is to be written."""
        with opened(self.root) as place:
            if flags & os.O_APPEND and place.entry(MADE) is None:
                self._begin(place)
            try:
                fd = os.open(MADE, flags | FILE, dir_fd=place.fd)
            except OSError:
                if (found := place.entry(MADE)) is None or not stat.S_ISLNK(found.st_mode):
                    raise
                raise self._foreign() from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(fd)
            raise self._foreign()
        return fd

    def _foreign(self) -> Foreign:
        reason = "it is a link, or has another name elsewhere"
        return Foreign(Path(self.root) / MADE, reason, "put the folder's own list there")

    def _begin(self, place: Place) -> None:
        name = secrets.token_hex(8)
        line = json.dumps({"id": name, "mark": home.mark(self._said(name))}) + "\n"
        with suppress(FileExistsError):  # another process was first
            fd = os.open(MADE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, 0o666, dir_fd=place.fd)
            try:
                _write_all(fd, line.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.fsync(place.fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
