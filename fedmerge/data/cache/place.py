"""Where decoded images lie: a folder of the user's, of a bounded size, one folder an entry."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedmerge.errors import FedMergeError

FOLDER, LIMIT = "FEDMERGE_CACHE", "FEDMERGE_CACHE_GB"
OFF = "off"
DEFAULT_GB = 50.0
PIXELS, ABOUT, TEXT = "pixels.bin", "about.npz", "entry.json"
STAMPS = "stamps"


def place() -> Path | None:
    """Return the cache's folder: FEDMERGE_CACHE, or else ``fedmerge/images`` where the user's caches are.

    None where FEDMERGE_CACHE is ``off``, or there is no home folder.
    """
    named = os.environ.get(FOLDER, "")
    if named:
        return None if named == OFF else Path(named).expanduser().absolute()
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(caches) / "fedmerge" / "images"


def limit() -> int:
    """Return the most bytes of all entries: FEDMERGE_CACHE_GB, or else 50 GB. Raises FedMergeError."""
    given = os.environ.get(LIMIT, "")
    try:
        gigabytes = float(given) if given else DEFAULT_GB
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < 1e9:
        raise FedMergeError(
            f"the environment variable {LIMIT} is '{given}': set it to a number of GB above 0."
        )
    return int(gigabytes * 1e9)


@dataclass(frozen=True)
class Entry:
    """One entry. used: seconds since it was last opened. text: the source, as it was written."""

    key: str
    folder: Path
    size: int
    used: float
    text: str
    images: int
    shape: tuple[int, int, int]


def entries(folder: Path) -> list[Entry]:
    """Return the entries of a cache, the longest unused first; half-made ones are none."""
    import json

    found = []
    for each in folder.glob("*/" + TEXT) if folder.is_dir() else ():
        with suppress(OSError, ValueError, KeyError):
            said = json.loads(each.read_text(encoding="utf-8"))
            size = sum(file.stat().st_size for file in each.parent.iterdir())
            used = time.time() - each.stat().st_mtime
            found.append(
                Entry(
                    each.parent.name, each.parent, size, used, said["text"], said["n"], tuple(said["shape"])
                )
            )
    return sorted(found, key=lambda entry: -entry.used)


def touch(folder: Path) -> None:
    """Note that an entry is used now."""
    with suppress(OSError):
        os.utime(folder / TEXT)


def make_room(folder: Path, needed: int, keep: str = "") -> None:
    """Remove the longest unused entries until ``needed`` bytes more keep to the limit.

    Files that a process has open stay readable for it. Raises FedMergeError where they never can.
    """
    most = limit()
    if needed > most:
        raise FedMergeError(
            f"the decoded images need {needed / 1e9:,.3g} GB, and the cache in {folder} may have "
            f"{most / 1e9:,.3g}: set the environment variable {LIMIT} higher, or {FOLDER} to '{OFF}' to "
            f"keep them in memory."
        )
    held = [entry for entry in entries(folder) if entry.key != keep]
    total = sum(entry.size for entry in held)
    for entry in held:
        if total + needed <= most:
            break
        remove(entry.folder)
        total -= entry.size


def remove(entry: Path) -> None:
    """Remove an entry, first the file that makes it one."""
    with suppress(OSError):
        (entry / TEXT).unlink()
    shutil.rmtree(entry, ignore_errors=True)


def clean(folder: Path) -> tuple[int, int]:
    """Remove every entry, stamp and half-made entry that no process makes now; return how many, and bytes."""
    from filelock import FileLock, Timeout

    count = total = 0
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        if each.suffix == ".lock":
            continue
        if each.name.endswith(".part") and each.is_dir():
            try:
                with FileLock(folder / f"{each.name.split('.')[1]}.lock", timeout=0):
                    shutil.rmtree(each, ignore_errors=True)
            except Timeout:
                continue
        elif each.name == STAMPS:
            shutil.rmtree(each, ignore_errors=True)
        elif (each / TEXT).is_file():
            total += sum(file.stat().st_size for file in each.iterdir())
            count += 1
            remove(each)
    return count, total
