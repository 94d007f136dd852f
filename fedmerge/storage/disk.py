"""Errors of the disk as sentences, and syncing files to it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fedmerge.errors import FedMergeError, short


class Shortage(NamedTuple):
    """What a disk has no more of, in words, and what to do about it."""

    what: str
    remedy: str


SPACE = Shortage("the disk is full", "free some space")
INODES = Shortage(
    "the disk takes no more files, though it has space left (none of its inodes is free)",
    "delete files that nobody needs (small ones count as much)",
)
QUOTA = Shortage("the disk quota of this user is used up", "free some space, or ask for more")
FEW = 16
"""Free inodes up to which a disk counts as having none: a write that failed gives back what it had taken."""


class DiskError(FedMergeError):
    """A path could not be written: the disk lacks something (``shortage``), or access is denied."""

    def __init__(self, path: Path, reason: str, shortage: Shortage | None = None, advice: str = "") -> None:
        if shortage is not None:
            advice = f"{shortage.what}; {shortage.remedy}, or choose a place on another"
        advice = advice or "choose a place that you may write to"
        super().__init__(f"'{short(path)}' cannot be written ({reason}): {advice}.")
        self.path = path
        self.reason = reason
        self.shortage = shortage


class Foreign(DiskError):
    """A path in a folder leads to something that is not the folder's own: nothing was written there."""

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        super().__init__(path, reason, advice=advice)


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
        said = str(error) if number is None else os.strerror(number)
        raise DiskError(path, said, _shortage(number, path)) from None


def full(error: BaseException) -> bool:
    """Whether an error means that the disk is full, or lacks inodes, or the user's quota is used up."""
    if isinstance(error, DiskError):
        return error.shortage is not None
    return _number(error) in (errno.ENOSPC, errno.EDQUOT)


def _shortage(number: int | None, path: Path) -> Shortage | None:
    """Return what the disk of a path lacks; the system has one error for space and for inodes."""
    if number == errno.EDQUOT:
        return QUOTA
    if number != errno.ENOSPC:
        return None
    there = next((each for each in (path, *path.parents) if each.exists()), Path())
    disk = os.statvfs(there)
    return INODES if disk.f_files and disk.f_favail <= FEW else SPACE  # f_files 0: it counts none


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error; safetensors, written in Rust, gives it in its message only."""
    if isinstance(error, OSError):
        return error.errno
    words = re.search(r"I/O error: .*\(os error (\d+)\)", str(error))
    return int(words[1]) if words else None
