"""Make or open an entry of the cache: decoded images, keyed by the files' content and how they are read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from fedmerge.data.cache import place as places
from fedmerge.data.cache.place import ABOUT, PIXELS, STAMPS, TEXT
from fedmerge.data.files.many import About, Look, decode, in_memory
from fedmerge.data.files.one import Item, is_file
from fedmerge.data.images.facts import Facts, facts_of, facts_together
from fedmerge.data.images.pixels import PixelFile
from fedmerge.data.images.stored import stored
from fedmerge.errors import FedMergeError
from fedmerge.storage.disk import saying, sync

VERSION = 1
"""Raised whenever the same files would be decoded to other pixels."""
SMALL = 16 * 2**20
"""Bytes of files below which images are decoded anew each time, and held in memory …"""
SMALL_DECODED = 64 * 2**20
"""… unless they have more bytes than this once they are decoded to the cohort's size."""


Take = Callable[[int, Tensor], None]
"""Takes the image at a position, uint8 1 x C x H x W; in order, and again from 0 where all come anew."""


@dataclass(frozen=True)
class Work:
    """How an entry is made. count: its images. fill: hands each over, and returns what was found beside them.
    text: names the source in progress and list."""

    count: int
    fill: Callable[[Take], About]
    text: str


def read_items(items: Sequence[Item], look: Look, text: str) -> tuple[Tensor, About]:
    """Return the images of the items, uint8 N x C x H x W, in their order, and what was found beside them.

    Small sources, and all where there is no cache, are decoded into memory. Else an entry of the cache is
    opened, or made first: whole or not at all, by one process while others wait. text: names the source in
    progress and list. Raises FedMergeError as ``decode`` does, and DiskError.
    """
    folder = places.place()
    if folder is None or _are_small(items, look) or not usable(folder):
        return in_memory(items, look, text)
    work = Work(len(items), lambda take: decode(items, look, text, take), text)
    return stamped(folder, _stamp(items, look), lambda: content_key(items, look), work)


def stamped(folder: Path, name: str, key_of: Callable[[], str], work: Work) -> tuple[Tensor, About]:
    """Return an entry whose key takes long to compute: it is noted under ``name``, of paths and times."""
    stamp = folder / STAMPS / name
    key = _text_of(stamp)
    if key is not None and (folder / key / TEXT).is_file():
        return kept(folder, key, work)
    key = key_of()
    found = kept(folder, key, work)
    with saying(stamp):
        stamp.parent.mkdir(exist_ok=True)
        part = stamp.with_name(f".{secrets.token_hex(8)}.part")
        part.write_text(key)
        os.replace(part, stamp)
    return found


def kept(folder: Path, key: str, work: Work) -> tuple[Tensor, About]:
    """Return an entry; make it first where it is not there, by one process while others wait."""
    from filelock import FileLock

    if not (folder / key / TEXT).is_file():
        with FileLock(folder / f"{key}.lock"):
            if not (folder / key / TEXT).is_file():
                _make(folder, key, work)
    places.touch(folder / key)
    return _open(folder / key)


def _are_small(items: Sequence[Item], look: Look) -> bool:
    decoded = 0 if look.size is None else len(items) * (look.channels or 1) * look.size**2
    if decoded >= SMALL_DECODED:
        return False
    return sum(item.file.stat().st_size for item in items if is_file(item.file)) < SMALL


def content_key(items: Sequence[Item], look: Look) -> str:
    """Return the name of an entry: a digest of every file's content, in order, and of how it is read."""
    found = hashlib.sha256(_options(look).encode())
    for item in items:
        try:
            with item.file.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:  # whoever decodes it says what is wrong
            found.update(str(item.file).encode(errors="surrogateescape"))
        found.update(f"\0{item.plane}\n".encode())
    return found.hexdigest()[:32]


def _stamp(items: Sequence[Item], look: Look) -> str:
    """Return a digest of paths, sizes, inodes and times, which changes whenever a file is written anew."""
    found = hashlib.sha256(_options(look).encode())
    for item in items:
        text = f"{item.file}\0{file_stamp(item.file)}\0{item.plane}\n"
        found.update(text.encode(errors="surrogateescape"))
    return found.hexdigest()[:32]


def file_stamp(file: Path) -> tuple[int, ...] | None:
    """Return a file's size, times, inode and device; None where it is not there."""
    with suppress(OSError):
        entry = file.stat()
        return entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino, entry.st_dev
    return None


def _options(look: Look) -> str:
    said = {"version": VERSION, "size": look.size, "channels": look.channels, "read": look.read.model_dump()}
    return json.dumps(said, sort_keys=True)


def usable(folder: Path) -> bool:
    """Make the cache's folder; return whether it is there and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _make(folder: Path, key: str, work: Work) -> None:
    for left in folder.glob(f".{key}.*.part"):  # of a process that was killed: we have its lock
        shutil.rmtree(left, ignore_errors=True)
    part = folder / f".{key}.{secrets.token_hex(8)}.part"
    with saying(folder):
        part.mkdir(mode=0o700)
        try:
            writer = _Writer(folder, part / PIXELS, work.count)
            with writer.file:
                about = work.fill(writer.take)
            _describe(part, writer, about, work.text)
            for each in (PIXELS, ABOUT, TEXT):
                sync(part / each)
            os.rename(part, folder / key)
            sync(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


class _Writer:
    """Writes images one after the other, and notes their facts; begins anew at position 0."""

    def __init__(self, folder: Path, path: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.file: BinaryIO = path.open("wb")
        self.facts: list[Facts] = []
        self.shape: tuple[int, int, int] = (0, 0, 0)

    def take(self, position: int, pixels: Tensor) -> None:
        if position == 0:
            channels, height, width = pixels.shape[1:]
            self.shape, self.facts = (channels, height, width), []
            self.file.seek(0)
            self.file.truncate()
            self._check_room(pixels.numel() * self.count)
        self.facts.append(facts_of(pixels))
        self.file.write(np.ascontiguousarray(pixels.numpy()).data)

    def _check_room(self, needed: int) -> None:
        places.make_room(self.folder, needed)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise FedMergeError(
                f"the decoded images need {needed / 1e9:,.1f} GB in {self.folder}, and {free / 1e9:,.1f} "
                f"GB are "
                f"free there: set the environment variable {places.FOLDER} to a folder on another disk, "
                f"or to "
                f"'{places.OFF}' to keep them in memory."
            )


def _describe(part: Path, writer: _Writer, about: About, text: str) -> None:
    """Write what is kept beside the pixels: nothing that tells who a patient is."""
    facts = facts_together(writer.facts)
    spacing = np.array([each or (0.0, 0.0) for each in about.spacing], dtype=np.float64).reshape(-1, 2)
    np.savez(
        part / ABOUT,
        digests=np.frombuffer(b"".join(facts.digests), dtype=np.uint8).reshape(-1, 16),
        lowest=facts.lowest,
        highest=facts.highest,
        sizes=np.array(about.sizes, dtype=np.int32).reshape(-1, 2),
        spacing=spacing,
        patients=np.array(_numbers(about.patients), dtype=np.int64),
        counts=np.array([about.inverted, about.burned], dtype=np.int64),
    )
    said = {"n": writer.count, "shape": list(writer.shape), "text": text, "version": VERSION}
    (part / TEXT).write_text(json.dumps(said), encoding="utf-8")


def _numbers(patients: Sequence[str]) -> list[int]:
    """Return patients as numbers in the order in which they come; -1 where none is named."""
    known: dict[str, int] = {}
    return [known.setdefault(each, len(known)) if each else -1 for each in patients]


def _open(entry: Path) -> tuple[Tensor, About]:
    try:
        said = json.loads((entry / TEXT).read_text(encoding="utf-8"))
        with np.load(entry / ABOUT, allow_pickle=False) as kept:
            held = {name: kept[name] for name in kept.files}
        digests = tuple(row.tobytes() for row in held["digests"])
        facts = Facts(digests, held["lowest"], held["highest"])
        pixels = PixelFile(entry / PIXELS, (said["n"], *said["shape"]), facts)
    except (OSError, ValueError, KeyError):
        raise FedMergeError(f"{entry} is damaged: `fedmerge cache clean` removes it.") from None
    about = About(
        sizes=[(int(h), int(w)) for h, w in held["sizes"]],
        patients=["" if number < 0 else str(number) for number in held["patients"].tolist()],
        spacing=[(r, c) if r > 0 else None for r, c in held["spacing"].tolist()],
        inverted=int(held["counts"][0]),
        burned=int(held["counts"][1]),
    )
    return stored(pixels), about
