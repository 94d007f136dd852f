"""The content of files and folders: a digest of it, and a stamp that shows cheaply whether it changed."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, or of a folder's: of each file below it, its path and content.

    It is computed once a process for as long as the stamp stays. Raises OSError.
    """
    return _digest(path, stamp_of(path))


def stamp_of(path: Path) -> str:
    """Return a text that changes when a file, or a file below a folder, is written anew, moved or renamed.

    It is made of sizes, inodes and times, not of content. Raises OSError.
    """
    found = hashlib.sha256()
    for each in _files(path):
        entry = each.stat()
        known = (entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino, entry.st_dev)
        found.update(f"{os.path.relpath(each, path)}\0{known}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


@functools.lru_cache(maxsize=256)
def _digest(path: Path, stamp: str) -> str:
    found = hashlib.sha256()
    for each in _files(path):
        with each.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{os.path.relpath(each, path)}\0{content}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """Yield the regular files below a folder in order of their paths, through links; or the file itself."""
    if not path.is_dir():
        yield path
        return
    seen: set[tuple[int, int]] = set()
    for above, folders, names in os.walk(path, followlinks=True):
        entry = os.stat(above)
        if (entry.st_dev, entry.st_ino) in seen:  # a link back up
            folders[:] = []
            continue
        seen.add((entry.st_dev, entry.st_ino))
        folders.sort()
        yield from (Path(above, name) for name in sorted(names) if Path(above, name).is_file())
