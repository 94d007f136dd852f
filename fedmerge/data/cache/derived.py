"""Images made of stored ones (another size, a simulated scanner), kept on disk in their turn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedmerge.data.cache import place as places
from fedmerge.data.cache.made import Take, Work, kept, usable
from fedmerge.data.files.many import About
from fedmerge.data.images.stored import StoredImages, pieces_of
from fedmerge.data.progress import tell

VERSION = 1
"""Raised whenever the same images and words would give other pixels."""


def derived(images: StoredImages, how: str, pieces: Callable[[], Iterable[Tensor]], text: str) -> Tensor:
    """Return the images that ``pieces`` gives, uint8 n x C x H x W each, as an entry of the cache.

    how: all that the result depends on beside the pixels of ``images``; both name the entry. text: what
    ``fedmerge cache list`` calls it. Without a cache they are in memory.
    """
    folder = places.place()
    if folder is None or not usable(folder):
        return torch.cat(list(pieces()))
    found = hashlib.sha256(f"derived {VERSION} {how}\0".encode())
    for digest in images.facts().digests:
        found.update(digest)

    def fill(take: Take) -> About:
        position = 0
        for piece in pieces():
            for image in piece.split(1):
                take(position, image)
                position += 1
            tell(f"preparing {text}", position, len(images))
        return About()

    return kept(folder, found.hexdigest()[:32], Work(len(images), fill, text))[0]


def in_pieces(images: StoredImages, change: Callable[[Tensor], Tensor]) -> Iterable[Tensor]:
    """Yield changed images, some at a time."""
    return (change(piece.read()) for piece in pieces_of(images))
