"""Write files whole or not at all, turn errors of the disk into sentences, and lock a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fedmerge.storage.own_files as own_files
from fedmerge.errors import FedMergeError
from fedmerge.storage.disk import DiskError, Foreign, full, saying, sync

__all__ = [
    "Damaged", "DiskError", "Foreign", "check_digest", "check_writable", "digest", "full", "locked",
    "make_folder", "read_sealed", "saying", "sync", "write", "write_json", "write_sealed", "write_text",
]  # fmt: skip


def write(path: Path, save: Callable[[Path], object]) -> str:
    """Let ``save`` make a file, sync it to the disk, and move it into place; return its SHA-256.

    At ``path`` there is always the old file or the new one, also after a crash, never half of one; a hard
    link elsewhere keeps the old file. In a folder that was entered (``own_files``) no link out is followed;
    elsewhere a link stays a link. A device or the like at ``path`` is written to directly. Raises DiskError,
    and then leaves nothing.
    """
    with saying(path), own_files.destination(path) as (place, name, room):
        there = place.entry(name)
        if there is not None and not stat.S_ISREG(there.st_mode):
            if stat.S_ISDIR(there.st_mode):
                raise DiskError(path, "it is a folder")
            save(path)
            return ""
        with own_files.part_of(place, name, room) as part:
            save(part.at(name))
            sync(part.at(name))
            made = part.entry(name)
            if made is None or not stat.S_ISREG(made.st_mode) or made.st_nlink != 1:
                raise Foreign(path, "what was written was changed just now", "see who else works there")
            found = digest(part.at(name))
            if room is not None and (relative := room.relative(path)) not in own_files.RESERVED:
                room.note(made=relative, sha256=found)
            os.rename(name, name, src_dir_fd=part.fd, dst_dir_fd=place.fd)
        sync(place.at("."))
    return found


def write_text(path: Path, text: str) -> str:
    """Write text, UTF-8, whole or not at all; return its SHA-256. Raises DiskError."""
    return write(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: Any) -> str:
    """Write JSON, indented by 1, whole or not at all; return its SHA-256. Raises DiskError."""
    return write_text(path, json.dumps(data, indent=1) + "\n")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that exists is fine. Raises DiskError."""
    with saying(folder):
        room = own_files.room_of(folder)
        if room is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        with room.folder(folder, make=True):
            pass


def check_writable(folder: Path) -> None:
    """Raise DiskError where no file can be made in ``folder``."""
    with (
        saying(folder),
        own_files.destination(folder / "writable") as (place, name, room),
        own_files.part_of(place, name, room),
    ):
        pass


@contextmanager
def locked(folder: Path, otherwise: str) -> Iterator[None]:
    """Keep other processes out of ``folder``; the lock is freed however this process ends.

    Raises FedMergeError with the sentence ``otherwise`` where another one is in it.
    """
    import fcntl

    path = folder / own_files.LOCK
    with saying(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError:
            if not path.is_symlink():
                raise
            raise Foreign(path, "it is a link", "remove it") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FedMergeError(otherwise) from None
        yield
    finally:
        os.close(descriptor)


class Damaged(FedMergeError):
    """A sealed file is not as it was written."""


def sealed(body: Any) -> tuple[str, str]:
    """Return the text that ``write_sealed`` writes, and the body's JSON in it; numpy numbers become plain."""
    text = json.dumps(body, default=_number_of)
    return f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}", "body": {text}}}\n', text


def write_sealed(path: Path, body: Any) -> Any:
    """Write JSON with the SHA-256 of its text, whole or not at all.

    Returns the body as ``read_sealed`` gives it back.
    """
    whole, text = sealed(body)
    write_text(path, whole)
    return json.loads(text)


def read_sealed(path: Path) -> Any:
    """Read a file of ``write_sealed``. Raises Damaged where a byte of it has changed."""
    found = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})", "body": (.*)\}\n', path.read_bytes(), re.DOTALL)
    if found is None or hashlib.sha256(found[2]).hexdigest().encode() != found[1]:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")
    return json.loads(found[2])


def check_digest(path: Path, expected: str) -> None:
    """Raise Damaged where a file is missing or does not have this SHA-256."""
    if not path.is_file():
        raise Damaged(f"'{path}' is gone.")
    if digest(path) != expected:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number_of(value: Any) -> Any:
    """Return a numpy number as a Python number."""
    if type(value).__module__ != "numpy":
        raise TypeError(f"{type(value).__name__} is not written as JSON")
    return value.item()
