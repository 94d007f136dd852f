"""An entered folder: its paths are walked without links, and only files made in it are deleted.

Every path is walked from the folder down, name by name, with descriptors that follow no link, so a link that
is swapped in meanwhile is not followed. ``made.jsonl`` lists the files made there, by path and SHA-256; only
regular files that it lists are ever deleted.

A link that leads out is written through, never deleted through, where it is known to be intended: the folder
was begun here (``home``) and the link is this user's; or its target lies in a folder of FEDMERGE_LINKED,
which are separated by ``:``.
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

from fedmerge.errors import short
from fedmerge.storage.disk import Foreign
from fedmerge.storage.made_list import MadeList
from fedmerge.storage.places import FOLDER, Place, clear_part, opened

LINKED = "FEDMERGE_LINKED"
Delete = Callable[[Place, str, os.stat_result], bool]
"""A function that deletes the entry of a name, and returns whether it is gone."""


class Room:
    """An entered folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.list = MadeList(root)
        self.identity = self.list.identity
        self.recording = False
        self.names = {root}
        """The paths under which the folder was entered."""

    def relative(self, path: str | Path) -> str:
        """Return a path in the room relative to its root, with slashes."""
        where = os.path.abspath(path)
        for root in sorted({self.root, *self.names}):  # also where the folder was entered anew since
            if _within(where, root):
                return os.path.relpath(where, root).replace(os.sep, "/")
        raise ValueError(f"{path} is not in {self.root}")

    @contextmanager
    def folder(self, path: str | Path, *, make: bool = False) -> Iterator[Place]:
        """Open a folder of the room. make: make it, and those above it, where they are missing.

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
        """Return the target of a link that may be written through. Raises Foreign for another."""
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
        """Return the SHA-256, by path, of files that this folder's own processes made and did not remove."""
        with self.list.lock:
            return dict(self.list.read().made)

    def digest(self, path: str | Path) -> str | None:
        """Return the SHA-256 with which a file was made; None for one not made by this folder's processes."""
        with self.list.lock:
            return self.list.read().made.get(self.relative(path))

    def owns(self, path: str | Path) -> bool:
        """Whether this folder's own processes made the file."""
        return self.digest(path) is not None

    def note(self, **entry: Any) -> None:
        """List a change before it happens: made, with sha256; removed; moved. Raises OSError, Foreign."""
        if self.recording:
            self.list.note(entry)

    def part_name(self, name: str) -> str:
        """Return an unused name for the temporary folder in which ``name`` is made."""
        return f".{name[:150]}.{self.list.read().id}-{secrets.token_hex(8)}.part"

    def is_part(self, path: str) -> bool:
        """Whether a path lies in a folder of ``part_of`` that this folder's processes made."""
        return any(self._is_part(name) for name in path.split("/")[:-1])

    def remove(self, path: str | Path) -> bool:
        """Delete a regular file that was made here, not through a link; return whether it is gone."""

        def unlink(place: Place, name: str, entry: os.stat_result) -> bool:
            if not (stat.S_ISREG(entry.st_mode) and self.owns(path)):
                return False
            self.note(removed=self.relative(path))
            os.unlink(name, dir_fd=place.fd)
            return True

        return self._gone(path, unlink)

    def remove_known(self, path: Path) -> bool:
        """Delete a regular file that is known to be the room's own; return whether it is gone."""

        def unlink(place: Place, name: str, entry: os.stat_result) -> bool:
            if not stat.S_ISREG(entry.st_mode):
                return False
            os.unlink(name, dir_fd=place.fd)
            return True

        return self._gone(path, unlink)

    def remove_tree(self, path: str | Path) -> bool:
        """Delete a folder's made files, then empty folders; return whether the folder is gone."""

        def clear(place: Place, name: str, entry: os.stat_result) -> bool:
            return stat.S_ISDIR(entry.st_mode) and self._clear(
                place, name, self.relative(path), set(self.made())
            )

        return self._gone(path, clear)

    def tidy(self) -> None:
        """Delete the leftovers of interrupted writes and deletions of this folder's processes."""
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
        """Delete the entry at ``path`` by ``delete``, not through a link; return whether it is gone."""
        try:
            with self.folder(Path(path).parent) as place:
                name = os.path.basename(os.path.abspath(path))
                entry = place.entry(name)
                return entry is None or (place.inside and delete(place, name, entry))
        except (Foreign, FileNotFoundError, NotADirectoryError):
            return False

    def _step(self, place: Place, name: str, make: bool) -> Place:
        """Open the folder ``name`` in ``place``."""
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
