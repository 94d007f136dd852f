"""What a disk refuses, as a sentence; and bringing files to it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmerge.errors import FedMergeError, short


class DiskError(FedMergeError):
    """Something could not be written: the disk is full (``full``), read-only, or not ours."""

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
    """A path in a folder leads to what is not the folder's: nothing was written there."""

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        super().__init__(path, reason, full=False, advice=advice)


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
