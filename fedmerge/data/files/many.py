"""Decode many files in parallel, in their order, with little memory: images come one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedmerge.cluster.cpus import available_cpus
from fedmerge.data.files.fit import fitted
from fedmerge.data.files.one import Decoded, Item, read_image
from fedmerge.data.images.images import to_channels
from fedmerge.data.progress import note_refused, tell
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError

MOST_NAMED = 5
AHEAD = 4
"""Images a worker that are decoded before they are taken."""


@dataclass(frozen=True)
class Look:
    """How decoded images shall look: read as ``read`` says, size x size and with ``channels`` where set."""

    read: ReadOptions = field(default_factory=ReadOptions)
    size: int | None = None
    channels: int | None = None


@dataclass
class About:
    """What was found of N images beside their pixels, in order. sizes: height and width in the file.

    patients: as the files say; they stay in memory. spacing: mm, or None. inverted, burned: how many.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    spacing: list[tuple[float, float] | None] = field(default_factory=list)
    inverted: int = 0
    burned: int = 0

    def add(self, found: Decoded) -> None:
        """Add an image's."""
        height, width = found.pixels.shape[2:]
        self.sizes.append((height, width))
        self.patients.append(found.patient)
        self.spacing.append(found.spacing)
        self.inverted += found.inverted
        self.burned += found.burned


def _refused(faults: Sequence[tuple[Item, str]]) -> FedMergeError:
    """Return one error for all refused files, the first in full."""
    others = ", ".join(item.file.name for item, _ in faults[1 : MOST_NAMED + 1])
    more = f" {len(faults) - 1} more files are refused, such as {others}." if others else ""
    return FedMergeError(faults[0][1] + more)


class _Mixed(Exception):
    """A colour image among grey ones."""


def decode(items: Sequence[Item], look: Look, text: str, take: Callable[[int, Tensor], None]) -> About:
    """Decode every item and hand it over as ``take(position, uint8 1 x C x H x W)``, in order.

    Without ``look.channels`` all are grey if every image is, else RGB: where a colour image comes after grey
    ones, all are handed over again, from position 0. Every file is tried; one error names those that cannot
    be read. Raises FedMergeError for them, and for images of several sizes without ``look.size``.
    """
    try:
        return _decode(items, look, text, take)
    except _Mixed:
        return _decode(items, Look(look.read, look.size, 3), text, take)


def _decode(items: Sequence[Item], look: Look, text: str, take: Callable[[int, Tensor], None]) -> About:
    about, faults = About(), list[tuple[Item, str]]()
    first: Tensor | None = None
    for position, (item, found) in enumerate(zip(items, _results(items, look), strict=True)):
        tell(f"reading {text}", position + 1, len(items))
        if isinstance(found, FedMergeError):
            faults.append((item, str(found)))
            continue
        if faults:
            continue
        decoded, pixels = found
        if first is None:
            first, one = pixels, item
        if pixels.shape[2:] != first.shape[2:]:
            raise FedMergeError(
                f"images differ in size: {item.file} is {pixels.shape[3]} x {pixels.shape[2]} px and "
                f"{one.file} is {first.shape[3]} x {first.shape[2]} px: set size: to resize all."
            )
        if pixels.shape[1] > first.shape[1]:
            raise _Mixed
        about.add(decoded)
        take(position, to_channels(pixels, first.shape[1]))
    if faults:
        note_refused([sentence for _, sentence in faults])
        raise _refused(faults)
    return about


def _results(items: Sequence[Item], look: Look) -> Iterator[tuple[Decoded, Tensor] | FedMergeError]:
    """Yield what each item gives, in order; a few are decoded ahead in threads."""
    workers = available_cpus()
    waiting: deque[Future[tuple[Decoded, Tensor] | FedMergeError]] = deque()
    coming = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for item in coming:
                waiting.append(pool.submit(_one, item, look))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _one(item: Item, look: Look) -> tuple[Decoded, Tensor] | FedMergeError:
    try:
        found = read_image(item, look.read)
    except FedMergeError as error:
        return error
    pixels = to_channels(found.pixels, look.channels) if look.channels else found.pixels
    return found, fitted(pixels, look.size, look.read.fit)


def in_memory(items: Sequence[Item], look: Look, text: str) -> tuple[Tensor, About]:
    """Decode every item into one Tensor, uint8 N x C x H x W."""
    images = torch.empty(0, dtype=torch.uint8)

    def take(position: int, pixels: Tensor) -> None:
        nonlocal images
        if position == 0:
            images = torch.empty(len(items), *pixels.shape[1:], dtype=torch.uint8)
        images[position] = pixels[0]

    about = decode(items, look, text, take)
    return images, about


def squares(about: About) -> int:
    """Return how many images are not square in their files."""
    sizes = np.array(about.sizes).reshape(-1, 2)
    return int((sizes[:, 0] != sizes[:, 1]).sum())
