"""Keep to a folder's own files: write nothing outside it, and delete nothing foreign in it.

A folder of a run or a study may come from anybody, and somebody may work in it at the same time. So inside a
folder that was entered (``enter``) every path is walked from the folder down, and only files that were made
there are deleted (``room``).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmerge.storage.disk import Foreign
from fedmerge.storage.made_list import MADE
from fedmerge.storage.places import Place, opened, part_in
from fedmerge.storage.room import Room, check_arrived

MANIFEST, SIGNATURE, LOCK = "manifest.json", "manifest.sig", ".lock"
RESERVED = (MADE, MANIFEST, SIGNATURE, LOCK)
"""Files at the root of a folder that record what is in it, and are themselves in no list."""

_rooms: dict[str, Room] = {}


def enter(folder: str | Path, *, recording: bool = False) -> Room:
    """Enter a folder: this process keeps to its own files from now on. recording: made files are listed.

    Raises OSError where there is no such folder.
    """
    root = os.path.realpath(folder)
    room = Room(root)
    known = _rooms.get(root)
    room.recording = recording or (known is not None and known.recording and known.identity == room.identity)
    for name in (root, os.path.abspath(folder)):
        if name in _rooms:
            _rooms[name].names.discard(name)
        room.names.add(name)
        _rooms[name] = room
    if room.recording:
        room.list.begin()
    return room


def room_of(path: str | Path) -> Room | None:
    """Return the innermost entered folder that holds ``path``; None for a path outside all of them."""
    where = os.path.abspath(path)
    while True:
        if (room := _rooms.get(where)) is not None:
            return room
        above = os.path.dirname(where)
        if above == where:
            return None
        where = above


def own_room(folder: Path) -> Room:
    """Return the room that a folder lies in; where there is none, enter the folder, with its own list."""
    return room_of(folder) or enter(folder, recording=True)


@contextmanager
def destination(path: Path) -> Iterator[tuple[Place, str, Room | None]]:
    """Open the folder in which a file at ``path`` is to be written; yield it, the file's name, and the room.

    Outside every room a link is the caller's, so it is followed. Raises Foreign, OSError.
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
                check_arrived(there.fd, os.path.dirname(target), path)
                yield there, os.path.basename(target), room
        else:
            raise Foreign(Path(path), "it is no file", "move it away")


@contextmanager
def part_of(place: Place, name: str, room: Room | None) -> Iterator[Place]:
    """Make and open a folder beside ``name``, to make that file in; delete it with its content at the end."""
    part = f".{name[:150]}.{secrets.token_hex(8)}.part" if room is None else room.part_name(name)
    with part_in(place, part) as made:
        yield made
