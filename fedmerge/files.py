"""Writing files: whole or not at all, what a disk refuses as a sentence, and one process at a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, short


class DiskError(FedMergeError):
    """Something could not be written: the disk is full (``full``), read-only, or not ours."""

    def __init__(self, path: Path, reason: str, full: bool) -> None:
        advice = (
            "the disk is full; free some space, or choose a place on another"
            if full
            else "choose a place that you may write to"
        )
        super().__init__(f"'{short(path)}' cannot be written ({reason}): {advice}.")
        self.path = path
        self.reason = reason
        self.full = full


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` make a file beside ``path``, bring it to the disk, and put it in its place.

    Whoever looks at ``path``, also after a crash, finds the file before or the file after, never half of it.
    What is there and no file (a device) is written to as it is. Raises DiskError, and then leaves nothing.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    part = path.with_name(f".{path.name}.part")
    with saying(path):
        if path.exists() and not path.is_file():
            save(path)
            return
        try:
            save(part)
            sync(part)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text, UTF-8, whole or not at all. Raises DiskError."""
    write(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write JSON, indented by 1, whole or not at all. Raises DiskError."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def saying(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while something is written to ``path`` into a DiskError."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None and not isinstance(error, OSError):
            raise
        raise DiskError(path, str(error) if number is None else os.strerror(number), full(error)) from None


def full(error: BaseException) -> bool:
    """Whether an error means that the disk is full."""
    if isinstance(error, DiskError):
        return error.full
    return _number(error) in (errno.ENOSPC, errno.EDQUOT)


def _number(error: BaseException) -> int | None:
    """The system's number of an error; safetensors, which is no Python, says it in words alone."""
    if isinstance(error, OSError):
        return error.errno
    words = re.search(r"I/O error: .*\(os error (\d+)\)", str(error))
    return int(words[1]) if words else None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that is there is fine. Raises DiskError."""
    with saying(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Raise DiskError where no file can be made in ``folder``."""
    with saying(folder):
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have tried, and tidied up, just now


@contextmanager
def locked(folder: Path, otherwise: str) -> Iterator[None]:
    """Keep other processes out of ``folder``; an end of this process, however hard, frees it.

    Raises FedMergeError with the sentence ``otherwise`` where another one is in it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    with saying(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FedMergeError(otherwise) from None
    try:
        yield
    finally:
        lock.release()


class Damaged(FedMergeError):
    """A sealed file is not what was written."""


def write_sealed(path: Path, body: Any) -> Any:
    """Write JSON with the SHA-256 of its text, whole or not at all; numpy's numbers become Python's.

    Returns the body as ``read_sealed`` gives it back.
    """
    text = json.dumps(body, default=_number_of)
    write_text(path, f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}", "body": {text}}}\n')
    return json.loads(text)


def read_sealed(path: Path) -> Any:
    """What ``write_sealed`` wrote there. Raises Damaged where a byte of it has changed."""
    found = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})", "body": (.*)\}\n', path.read_bytes(), re.DOTALL)
    if found is None or hashlib.sha256(found[2]).hexdigest().encode() != found[1]:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")
    return json.loads(found[2])


def check_digest(path: Path, expected: str) -> None:
    """Raise Damaged where a file is gone, or does not have this SHA-256."""
    if not path.is_file():
        raise Damaged(f"'{path}' is gone.")
    if digest(path) != expected:
        raise Damaged(f"'{path}' is damaged: it is not what was written.")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number_of(value: Any) -> Any:
    """The Python number in a numpy one."""
    if type(value).__module__ != "numpy":
        raise TypeError(f"{type(value).__name__} is not written as JSON")
    return value.item()
