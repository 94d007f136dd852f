"""Open folders: work in them by descriptor meets no link that is swapped in meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Place:
    """An open folder: its descriptor, its real path, and whether it lies inside the room."""

    fd: int
    path: str
    inside: bool = True

    def entry(self, name: str) -> os.stat_result | None:
        """Return the status of the entry of that name, without following a link; None where there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def at(self, name: str) -> Path:
        """Return a path to a file in it that stays valid, whatever is renamed above it meanwhile."""
        base = f"/proc/self/fd/{self.fd}"
        return Path(base if os.path.isdir(base) else self.path) / name


@contextmanager
def opened(folder: str) -> Iterator[Place]:
    """Open a folder by its path, following links."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(fd, folder)
    finally:
        os.close(fd)


@contextmanager
def part_in(place: Place, name: str) -> Iterator[Place]:
    """Make and open a folder ``name``, to make a file in; delete it with its content at the end."""
    os.mkdir(name, 0o700, dir_fd=place.fd)
    try:
        fd = os.open(name, FOLDER, dir_fd=place.fd)
        try:
            yield Place(fd, os.path.join(place.path, name))
        finally:
            os.close(fd)
    finally:
        clear_part(place, name)


def clear_part(place: Place, name: str) -> None:
    """Delete a folder of ``part_in`` and the files in it."""
    with suppress(OSError):
        fd = os.open(name, FOLDER, dir_fd=place.fd)
        try:
            for each in os.listdir(fd):
                os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=place.fd)
