"""What is a folder's own: nothing outside it is written, and nothing foreign in it is deleted.

A folder of a run or a study may come from anybody, and somebody may work in it at the same time. So inside a
folder that was entered (``enter``) every way is walked from the folder down, name by name, with descriptors
that follow no link: what is swapped in meanwhile is not met. ``made.jsonl`` lists what was made there, by
path and SHA-256; only what it lists, and regular files alone, is ever deleted.

A link that leads out is written through, never deleted through, where its owner is known to have meant it:
the folder was begun here (``home``) and the link is this user's; or the place is named in FEDMERGE_LINKED,
folders with ``:`` between them.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmerge.disk import Foreign
from fedmerge.errors import short
from fedmerge.made_list import MADE, MadeList
from fedmerge.places import FOLDER, Place, clear_part, opened, part_in

MANIFEST, SIGNATURE, LOCK = "manifest.json", "manifest.sig", ".lock"
RESERVED = (MADE, MANIFEST, SIGNATURE, LOCK)
"""Files at the root of a folder that say what is in it, and are in no list of it."""
LINKED = "FEDMERGE_LINKED"

_rooms: dict[str, Room] = {}


def enter(folder: str | Path, *, recording: bool = False) -> Room:
    """From now on this folder's files are its own, in this process. recording: what is made is listed.

    Raises OSError where there is no such folder.
    """
    root = os.path.realpath(folder)
    room = Room(root)
    known = _rooms.get(root)
    room.recording = recording or (known is not None and known.recording and known.identity == room.identity)
    _rooms[root] = _rooms[os.path.abspath(folder)] = room
    if room.recording:
        room.list.begin()
    return room


def room_of(path: str | Path) -> Room | None:
    """The innermost folder that was entered and holds ``path``; None for a path of the caller's own."""
    where = os.path.abspath(path)
    while True:
        if (room := _rooms.get(where)) is not None:
            return room
        above = os.path.dirname(where)
        if above == where:
            return None
        where = above


def own_room(folder: Path) -> Room:
    """The room that a folder lies in; where that is none, the folder itself, with a list of its own."""
    return room_of(folder) or enter(folder, recording=True)


@contextmanager
def destination(path: Path) -> Iterator[tuple[Place, str, Room | None]]:
    """The open folder in which a file at ``path`` is to be written, its name there, and whose it is.

    Outside every room a link is the caller's, and it is followed. Raises Foreign, OSError.
    """
    room = room_of(path)
    if room is None:
        real = os.path.realpath(path)
        with opened(os.path.dirname(real)) as place:
            yield place, os.path.basename(real), None
        return
    with room.folder(Path(path).parent) as place:
        name = os.path.basename(os.path.abspath(path))
        entry = place.entry(name)
        if entry is None or stat.S_ISREG(entry.st_mode):
            yield place, name, room
        elif stat.S_ISLNK(entry.st_mode):
            target = room.leaving(place, name, entry)
            with opened(os.path.dirname(target)) as there:
                _check_arrived(there.fd, os.path.dirname(target), path)
                yield there, os.path.basename(target), room
        else:
            raise Foreign(Path(path), "it is no file", "move it away")


class Room:
    """One folder that was entered."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.list = MadeList(root)
        self.identity = self.list.identity
        self.recording = False

    def relative(self, path: str | Path) -> str:
        """A path in the room, from its root, with slashes."""
        where = os.path.abspath(path)
        for root in _names_of(self):
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
        try:
            with self.folder(Path(path).parent) as place:
                name = os.path.basename(os.path.abspath(path))
                entry = place.entry(name)
                if entry is None:
                    return True
                if not (place.inside and stat.S_ISREG(entry.st_mode) and self.owns(path)):
                    return False
                self.note(removed=self.relative(path))
                os.unlink(name, dir_fd=place.fd)
        except (Foreign, FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove_known(self, path: Path) -> None:
        """Delete a regular file that its name tells to be the room's own; nothing through a link."""
        with suppress(Foreign, FileNotFoundError, NotADirectoryError), self.folder(path.parent) as place:
            entry = place.entry(path.name)
            if place.inside and entry is not None and stat.S_ISREG(entry.st_mode):
                os.unlink(path.name, dir_fd=place.fd)

    def remove_tree(self, path: str | Path) -> bool:
        """Delete what was made in a folder, and folders that are empty then; whether it is gone."""
        try:
            with self.folder(Path(path).parent) as place:
                name = os.path.basename(os.path.abspath(path))
                entry = place.entry(name)
                if entry is None:
                    return True
                if not place.inside or not stat.S_ISDIR(entry.st_mode):
                    return False
                return self._clear(place, name, self.relative(path), set(self.made()))
        except (Foreign, FileNotFoundError, NotADirectoryError):
            return False

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
                _check_arrived(fd, target, Path(place.path) / name)
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


@contextmanager
def part_of(place: Place, name: str, room: Room | None) -> Iterator[Place]:
    """A new folder beside ``name`` to make it in, open; deleted with what is left in it."""
    part = f".{name[:150]}.{secrets.token_hex(8)}.part" if room is None else room.part_name(name)
    with part_in(place, part) as made:
        yield made


def _check_arrived(fd: int, target: str, path: Path) -> None:
    """Raise Foreign where a link on the way to ``target`` was changed while it was followed."""
    with suppress(FileNotFoundError):  # a system without /proc
        if os.readlink(f"/proc/self/fd/{fd}") != target:
            raise Foreign(path, "a link in it was changed just now", "see who else works there")


def _names_of(room: Room) -> list[str]:
    """The paths under which a room was entered."""
    return [room.root, *(path for path, each in list(_rooms.items()) if each is room)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
