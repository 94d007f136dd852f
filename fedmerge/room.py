"""One folder that was entered: its ways are walked without links, and only what was made in it is deleted.

Every way is walked from the folder down, name by name, with descriptors that follow no link: what is swapped
in meanwhile is not met. ``made.jsonl`` lists what was made there, by path and SHA-256; only what it lists,
and regular files alone, is ever deleted.

A link that leads out is written through, never deleted through, where its owner is known to have meant it:
the folder was begun here (``home``) and the link is this user's; or the place is named in FEDMERGE_LINKED,
folders with ``:`` between them.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmerge.disk import Foreign
from fedmerge.errors import short
from fedmerge.made_list import MadeList
from fedmerge.places import FOLDER, Place, clear_part, opened

LINKED = "FEDMERGE_LINKED"
Delete = Callable[[Place, str, os.stat_result], bool]
"""Deletes what is there under a name, and says whether it is gone."""


class Room:
    """One folder that was entered."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.list = MadeList(root)
        self.identity = self.list.identity
        self.recording = False
        self.names = {root}
        """The paths under which it was entered."""

    def relative(self, path: str | Path) -> str:
        """A path in the room, from its root, with slashes."""
        where = os.path.abspath(path)
        for root in sorted({self.root, *self.names}):  # also where the folder was entered anew since
            if _within(where, root):
                return os.path.relpath(where, root).replace(os.sep, "/")
        raise ValueError(f"{path} is not in {self.root}")

    @contextmanager
    def folder(self, path: str | Path, *, make: bool = False) -> Iterator[Place]:
        """A folder of the room, open. make: with those above it, where they are not there.

        Raises Foreign where a link leads out, OSError for anything else.
        """
        relative = self.relative(path)
        parts = [] if relative == "." else relative.split("/")
        place = Place(os.open(self.root, FOLDER), self.root)
        for part in parts:
            try:
                below = self._step(place, part, make)
            finally:
                os.close(place.fd)
            place = below
        try:
            yield place
        finally:
            os.close(place.fd)

    def leaving(self, place: Place, name: str, entry: os.stat_result) -> str:
        """Where a link leads, if it may be written through. Raises Foreign."""
        path = os.path.join(place.path, name)
        target = os.path.realpath(path)
        named = [os.path.realpath(each) for each in os.environ.get(LINKED, "").split(os.pathsep) if each]
        inside = _within(target, self.root)
        own = self.begun_here and entry.st_uid == os.geteuid()
        if inside or own or any(_within(target, each) for each in named):
            return target
        raise Foreign(
            Path(path),
            f"it is a link out to '{short(target)}', in a folder that was not begun here by you",
            f"remove the link or, if it is yours, allow that place: {LINKED}={short(target)}",
        )

    @property
    def begun_here(self) -> bool:
        """Whether this user began the folder on this machine, and it was not moved since."""
        return self.list.read().begun_here

    def made(self) -> dict[str, str]:
        """What this folder's own processes have made and not removed, by path, with the SHA-256."""
        with self.list.lock:
            return dict(self.list.read().made)

    def digest(self, path: str | Path) -> str | None:
        """The SHA-256 with which a file was made; None for one that this folder's processes did not make."""
        with self.list.lock:
            return self.list.read().made.get(self.relative(path))

    def owns(self, path: str | Path) -> bool:
        """Whether the file was made by this folder's own processes."""
        return self.digest(path) is not None

    def note(self, **entry: Any) -> None:
        """List what is about to be done: made, with sha256; removed; moved. Raises OSError, Foreign."""
        if self.recording:
            self.list.note(entry)

    def part_name(self, name: str) -> str:
        """A name that nobody has yet, for what is being made and shall be ``name``."""
        return f".{name[:150]}.{self.list.read().id}-{secrets.token_hex(8)}.part"

    def is_part(self, path: str) -> bool:
        """Whether a path lies in a folder of ``part_of`` that this folder's processes made."""
        return any(self._is_part(name) for name in path.split("/")[:-1])

    def remove(self, path: str | Path) -> bool:
        """Delete a regular file that was made here, nothing through a link; whether it is gone."""

        def unlink(place: Place, name: str, entry: os.stat_result) -> bool:
            if not (stat.S_ISREG(entry.st_mode) and self.owns(path)):
                return False
            self.note(removed=self.relative(path))
            os.unlink(name, dir_fd=place.fd)
            return True

        return self._gone(path, unlink)

    def remove_known(self, path: Path) -> bool:
        """The same for a regular file whose name tells that it is the room's own."""

        def unlink(place: Place, name: str, entry: os.stat_result) -> bool:
            if not stat.S_ISREG(entry.st_mode):
                return False
            os.unlink(name, dir_fd=place.fd)
            return True

        return self._gone(path, unlink)

    def remove_tree(self, path: str | Path) -> bool:
        """Delete what was made in a folder, and folders that are empty then; whether it is gone."""

        def clear(place: Place, name: str, entry: os.stat_result) -> bool:
            return stat.S_ISDIR(entry.st_mode) and self._clear(
                place, name, self.relative(path), set(self.made())
            )

        return self._gone(path, clear)

    def tidy(self) -> None:
        """Delete what interrupted writes and deletions of this folder's processes have left in it."""
        for path in sorted(self.list.read().gone):
            self.remove_known(Path(self.root) / path)
        with opened(self.root) as place:
            for _, folders, _, fd in os.fwalk(".", dir_fd=place.fd):
                for name in [each for each in folders if self._is_part(each)]:
                    folders.remove(name)
                    clear_part(Place(fd, ""), name)

    def move(self, source: str | Path, target: str | Path) -> None:
        """Rename a folder of the room. Raises OSError where the new name is taken."""
        with self.folder(Path(source).parent) as one, self.folder(Path(target).parent) as other:
            first, second = (os.path.basename(os.path.abspath(each)) for each in (source, target))
            self.note(moved=[self.relative(source), self.relative(target)])
            os.rename(first, second, src_dir_fd=one.fd, dst_dir_fd=other.fd)
            os.fsync(other.fd)

    def _gone(self, path: str | Path, delete: Delete) -> bool:
        """Whether nothing is at ``path`` once ``delete`` took what is there; nothing through a link."""
        try:
            with self.folder(Path(path).parent) as place:
                name = os.path.basename(os.path.abspath(path))
                entry = place.entry(name)
                return entry is None or (place.inside and delete(place, name, entry))
        except (Foreign, FileNotFoundError, NotADirectoryError):
            return False

    def _step(self, place: Place, name: str, make: bool) -> Place:
        """One folder further down."""
        try:
            if make and place.entry(name) is None:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=place.fd)
            fd = os.open(name, FOLDER, dir_fd=place.fd)
        except OSError:
            entry = place.entry(name)
            if entry is None or not stat.S_ISLNK(entry.st_mode):
                raise
            target = self.leaving(place, name, entry)
            fd = os.open(target, FOLDER)
            try:
                check_arrived(fd, target, Path(place.path) / name)
            except Foreign:
                os.close(fd)
                raise
            return Place(fd, target, inside=False)
        return Place(fd, os.path.join(place.path, name), place.inside)

    def _clear(self, above: Place, name: str, relative: str, made: set[str]) -> bool:
        fd = os.open(name, FOLDER, dir_fd=above.fd)
        here = Place(fd, "")
        try:
            for each in os.listdir(fd):
                entry, path = here.entry(each), f"{relative}/{each}"
                if entry is None:
                    continue
                if stat.S_ISDIR(entry.st_mode):
                    if self._is_part(each):
                        clear_part(here, each)
                    else:
                        self._clear(here, each, path, made)
                elif stat.S_ISREG(entry.st_mode) and path in made:
                    self.note(removed=path)
                    os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        try:
            os.rmdir(name, dir_fd=above.fd)
        except OSError:
            return False
        return True

    def _is_part(self, name: str) -> bool:
        own = self.list.read().id
        return bool(own) and re.fullmatch(rf"\..*\.{own}-[0-9a-f]{{16}}\.part", name) is not None


def check_arrived(fd: int, target: str, path: Path) -> None:
    """Raise Foreign where a link on the way to ``target`` was changed while it was followed."""
    with suppress(FileNotFoundError):  # a system without /proc
        if os.readlink(f"/proc/self/fd/{fd}") != target:
            raise Foreign(path, "a link in it was changed just now", "see who else works there")


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
