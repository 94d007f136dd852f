"""Errors of the disk as sentences, and syncing files to it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmerge.errors import FedMergeError, short


class DiskError(FedMergeError):
    """A path could not be written: the disk is full (``full``) or read-only, or access is denied."""

    def __init__(self, path: Path, reason: str, full: bool, advice: str = "") -> None:
        advice = advice or (
            "the disk is full; free some space, or choose a place on another"
            if full
            else "choose a place that you may write to"
        )
        super().__init__(f"'{short(path)}' cannot be written ({reason}): {advice}.")
        self.path = path
        self.reason = reason
        self.full = full


class Foreign(DiskError):
    """A path in a folder leads to something that is not the folder's own: nothing was written there."""

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        super().__init__(path, reason, full=False, advice=advice)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def saying(path: Path) -> Iterator[None]:
    """Turn an error of the disk inside the block, which writes to ``path``, into a DiskError."""
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
    """Return the system's number of an error; safetensors, written in Rust, gives it in its message only."""
    if isinstance(error, OSError):
        return error.errno
    words = re.search(r"I/O error: .*\(os error (\d+)\)", str(error))
    return int(words[1]) if words else None
