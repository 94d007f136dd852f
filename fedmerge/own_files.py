"""What is a folder's own: nothing is written outside it, and nothing is deleted in it that was not made by it.

A folder of a run or a study may come from anybody, and somebody may work in it at the same time. So inside a
folder that was entered (``enter``) every way is walked from the folder down, name by name, with descriptors
that follow no link: what is swapped in meanwhile is not met. ``made.jsonl`` lists what was made there, by path
and SHA-256; only what it lists, and regular files alone, is ever deleted.

A link that leads out is written through, never deleted through, where its owner is known to have meant it: the
folder was begun here (``home``) and the link is this user's; or the place is named in FEDMERGE_LINKED, folders
with ``:`` between them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge import home
from fedmerge.disk import Foreign
from fedmerge.errors import short

MADE, MANIFEST, SIGNATURE, LOCK = "made.jsonl", "manifest.json", "manifest.sig", ".lock"
RESERVED = (MADE, MANIFEST, SIGNATURE, LOCK)
"""Files at the root of a folder that say what is in it, and are in no list of it."""
LINKED = "FEDMERGE_LINKED"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_rooms: dict[str, Room] = {}


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
        os.close(room._list(os.O_RDWR | os.O_APPEND))
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
    """The room that a folder lies in; where it is none, the folder itself, and what is made there is listed."""
    return room_of(folder) or enter(folder, recording=True)


@contextmanager
def destination(path: Path) -> Iterator[tuple[Place, str, Room | None]]:
    """The open folder in which a file at ``path`` is to be written, its name there, and whose it is.

    Outside every room a link is the caller's, and it is followed. Raises Foreign, OSError.
    """
    room = room_of(path)
    if room is None:
        real = os.path.realpath(path)
        with _opened(os.path.dirname(real)) as place:
            yield place, os.path.basename(real), None
        return
    with room.folder(Path(path).parent) as place:
        name = os.path.basename(os.path.abspath(path))
        entry = place.entry(name)
        if entry is None or stat.S_ISREG(entry.st_mode):
            yield place, name, room
        elif stat.S_ISLNK(entry.st_mode):
            target = room.leaving(place, name, entry)
            with _opened(os.path.dirname(target)) as there:
                _check_arrived(there.fd, os.path.dirname(target), path)
                yield there, os.path.basename(target), room
        else:
            raise Foreign(Path(path), "it is no file", "move it away")


class Room:
    """One folder that was entered."""

    def __init__(self, root: str) -> None:
        self.root = root
        found = os.stat(root)
        self.identity = (found.st_dev, found.st_ino)
        self.recording = False
        self._lock = threading.RLock()
        self._made: dict[str, str] = {}
        self._read = 0
        self._id = ""
        self._mark = ""

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
        place = Place(os.open(self.root, _FOLDER), self.root)
        try:
            for part in parts:
                place = self._step(place, part, make)
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
            f"it is a link out of its folder, to '{short(target)}', in a folder that was not begun here by you",
            f"remove the link or, if it is yours, allow that place: {LINKED}={short(target)}",
        )

    @property
    def begun_here(self) -> bool:
        """Whether this user began the folder on this machine, and it was not moved since."""
        self.made()
        return bool(self._id) and home.is_mark(self._mark, self._said(self._id))

    def made(self) -> dict[str, str]:
        """What this folder's own processes have made and not removed, by path, with the SHA-256."""
        with self._lock:
            return dict(self._current())

    def digest(self, path: str | Path) -> str | None:
        """The SHA-256 with which a file was made; None for one that this folder's processes did not make."""
        with self._lock:
            return self._current().get(self.relative(path))

    def owns(self, path: str | Path) -> bool:
        """Whether the file was made by this folder's own processes."""
        return self.digest(path) is not None

    def note(self, **entry: Any) -> None:
        """List what was done, on the disk before this returns: made and sha256; removed; or moved.

        Raises OSError, and Foreign where the list is not a file of this folder alone.
        """
        if not self.recording:
            return
        with self._lock:
            fd = self._list(os.O_RDWR | os.O_APPEND)
            try:
                size = os.fstat(fd).st_size
                cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # the machine stopped within a line
                _write_all(fd, (b"\n" if cut else b"") + json.dumps(entry).encode() + b"\n")
                os.fsync(fd)
            finally:
                os.close(fd)

    def part_name(self, name: str) -> str:
        """A name that nobody has yet, for what is being made and shall be ``name``."""
        self.made()
        return f".{name[:150]}.{self._id}-{secrets.token_hex(8)}.part"

    def is_part(self, path: str) -> bool:
        """Whether a path lies in a folder of ``part_of`` that this folder's processes made."""
        self.made()
        names = path.split("/")[:-1]
        return bool(self._id) and any(f".{self._id}-" in each and each.endswith(".part") for each in names)

    def remove(self, path: str | Path) -> bool:
        """Delete a regular file that was made here; whether it is gone. Nothing else, nothing through a link."""
        try:
            with self.folder(Path(path).parent) as place:
                name = os.path.basename(os.path.abspath(path))
                entry = place.entry(name)
                if entry is None:
                    return True
                if not (place.inside and stat.S_ISREG(entry.st_mode) and self.owns(path)):
                    return False
                os.unlink(name, dir_fd=place.fd)
        except (Foreign, FileNotFoundError, NotADirectoryError):
            return False
        self.note(removed=self.relative(path))
        return True

    def remove_tree(self, path: str | Path) -> bool:
        """Delete what was made in a folder of the room, and the folders that are empty then; whether all is."""
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
        """Delete what interrupted writes of this folder's processes have left, wherever in it."""
        self.made()
        if not self._id:
            return
        ours = re.compile(rf"\..*\.{re.escape(self._id)}-[0-9a-f]{{16}}\.part")
        with _opened(self.root) as place:
            for _, folders, _, fd in os.fwalk(".", dir_fd=place.fd):
                for name in [each for each in folders if ours.fullmatch(each)]:
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
        """One folder further down; the one before is closed."""
        try:
            try:
                if make and place.entry(name) is None:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=place.fd)
                fd = os.open(name, _FOLDER, dir_fd=place.fd)
            except OSError:
                entry = place.entry(name)
                if entry is None or not stat.S_ISLNK(entry.st_mode):
                    raise
                target = self.leaving(place, name, entry)
                fd = os.open(target, _FOLDER)
                try:
                    _check_arrived(fd, target, Path(place.path) / name)
                except Foreign:
                    os.close(fd)
                    raise
                return Place(fd, target, inside=False)
            return Place(fd, os.path.join(place.path, name), place.inside)
        finally:
            os.close(place.fd)

    def _clear(self, above: Place, name: str, relative: str, made: set[str]) -> bool:
        fd = os.open(name, _FOLDER, dir_fd=above.fd)
        here = Place(fd, "")
        ours = f".{self._id}-" if self._id else "/"
        try:
            for each in os.listdir(fd):
                entry, path = here.entry(each), f"{relative}/{each}"
                if entry is None:
                    continue
                if stat.S_ISDIR(entry.st_mode):
                    if ours in each and each.endswith(".part"):
                        clear_part(here, each)
                    else:
                        self._clear(here, each, path, made)
                elif stat.S_ISREG(entry.st_mode) and path in made:
                    os.unlink(each, dir_fd=fd)
                    self.note(removed=path)
        finally:
            os.close(fd)
        try:
            os.rmdir(name, dir_fd=above.fd)
        except OSError:
            return False
        return True

    def _said(self, name: str) -> str:
        return f"{name} {self.identity[0]} {self.identity[1]}"

    def _list(self, flags: int) -> int:
        """The open list; made where it is not there yet and shall be written."""
        with _opened(self.root) as place:
            if flags & os.O_APPEND and place.entry(MADE) is None:
                self._begin(place)
            try:
                fd = os.open(MADE, flags | _FILE, dir_fd=place.fd)
            except FileNotFoundError:
                raise
            except OSError:
                raise self._no_list() from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(fd)
            raise self._no_list()
        return fd

    def _no_list(self) -> Foreign:
        return Foreign(
            Path(self.root) / MADE,
            "it is a link, or has another name elsewhere",
            "put the folder's own list there",
        )

    def _begin(self, place: Place) -> None:
        name = secrets.token_hex(8)
        line = json.dumps({"id": name, "mark": home.mark(self._said(name))}) + "\n"
        with suppress(FileExistsError):
            fd = os.open(MADE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=place.fd)
            try:
                _write_all(fd, line.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.fsync(place.fd)

    def _current(self) -> dict[str, str]:
        with suppress(OSError):
            self._catch_up()
        return self._made

    def _catch_up(self) -> None:
        """Read what was listed since the last time, by this process or another."""
        fd = self._list(os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size < self._read:
                self._made, self._read, self._id = {}, 0, ""
            os.lseek(fd, self._read, os.SEEK_SET)
            with os.fdopen(os.dup(fd), "rb") as file:
                new = file.read(size - self._read)
        finally:
            os.close(fd)
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "made" in entry:
            self._made[str(entry["made"])] = str(entry["sha256"])
        elif "removed" in entry:
            self._made.pop(str(entry["removed"]), None)
        elif "moved" in entry:
            source, target = (f"{each}/" for each in entry["moved"])
            gone = [path for path in self._made if path.startswith(source)]
            self._made |= {target + path.removeprefix(source): self._made.pop(path) for path in gone}
        elif not self._id and re.fullmatch(r"[0-9a-f]{16}", str(entry["id"])):
            self._id, self._mark = str(entry["id"]), str(entry["mark"])


@contextmanager
def part_of(place: Place, name: str, room: Room | None) -> Iterator[Place]:
    """A new folder beside ``name`` to make it in, open; deleted with what is left in it."""
    part = f".{name[:150]}.{secrets.token_hex(8)}.part" if room is None else room.part_name(name)
    os.mkdir(part, 0o700, dir_fd=place.fd)
    try:
        fd = os.open(part, _FOLDER, dir_fd=place.fd)
        try:
            yield Place(fd, os.path.join(place.path, part))
        finally:
            os.close(fd)
    finally:
        clear_part(place, part)


def clear_part(place: Place, name: str) -> None:
    """Delete a folder of ``part_of`` with the files in it."""
    with suppress(OSError):
        fd = os.open(name, _FOLDER, dir_fd=place.fd)
        try:
            for each in os.listdir(fd):
                os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=place.fd)


@contextmanager
def _opened(folder: str) -> Iterator[Place]:
    fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(fd, folder)
    finally:
        os.close(fd)


def _check_arrived(fd: int, target: str, path: Path) -> None:
    """Raise Foreign where a link on the way to ``target`` was changed while it was followed."""
    with suppress(FileNotFoundError):  # a system without /proc
        if os.readlink(f"/proc/self/fd/{fd}") != target:
            raise Foreign(
                path, "a link in it was changed just now", "see who else works there, and try again"
            )


def _names_of(room: Room) -> list[str]:
    """The paths under which a room was entered."""
    return [room.root, *(path for path, each in list(_rooms.items()) if each is room)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
