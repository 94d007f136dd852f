"""Folders that are open: what is done in them by descriptor meets no link that is swapped in meanwhile."""

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
    """A folder that is open: its descriptor, its real path, and whether it lies inside the room."""

    fd: int
    path: str
    inside: bool = True

    def entry(self, name: str) -> os.stat_result | None:
        """What has that name, no link followed; None for nothing."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def at(self, name: str) -> Path:
        """A path to a file in it that stays the same file, whatever is renamed above it meanwhile."""
        base = f"/proc/self/fd/{self.fd}"
        return Path(base if os.path.isdir(base) else self.path) / name


@contextmanager
def opened(folder: str) -> Iterator[Place]:
    """A folder by its path, whose links are followed."""
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(fd, folder)
    finally:
        os.close(fd)


@contextmanager
def part_in(place: Place, name: str) -> Iterator[Place]:
    """A new folder ``name`` to make a file in, open; deleted with what is left in it."""
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
    """Delete a folder of ``part_in`` with the files in it."""
    with suppress(OSError):
        fd = os.open(name, FOLDER, dir_fd=place.fd)
        try:
            for each in os.listdir(fd):
                os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=place.fd)
