"""Images that look alike though their pixels differ: the same picture compressed or resized another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fedmerge.data.cohort.cohort import Site
from fedmerge.data.images.facts import facts_of
from fedmerge.errors import FedMergeError
from fedmerge.extras import extra

MOST = 5_000
"""Images that are compared; of more, as many, evenly spread."""
BITS, APART = 64, 4
"""Bits of a perceptual hash, and how many may differ."""
NEAR = 6.0
"""The mean difference of two look-alikes' pixels at most, of 255: X-rays have similar hashes."""


def look_alikes(sites: Sequence[Site]) -> list[str]:
    """Return a sentence for each pair of parts (a hospital's split) with images that look alike.

    Two images look alike if at most 4 of 64 bits of their perceptual hashes (imagehash's phash) differ, and
    their pixels by at most 6 of 255 on average, and are not equal. Without the extra ``checks`` the
    sentence says that nothing was compared.
    """
    try:
        with extra("checks", "comparing how images look"):
            import imagehash
    except FedMergeError as error:
        return [str(error)]
    looked = _looked_at(sites, imagehash.phash)
    where, total = looked.where, sum(len(site.everything) for site in sites)
    apart = ((where[i], where[j]) for i, j in _pairs(looked, lambda i, j: where[i] != where[j]))
    pairs = Counter(apart)
    compared = f", of {len(where):,} of {total:,} images" if total > MOST else ""
    return [
        f"images that look alike though their pixels differ: {n} pairs between {first} and "
        f"{second}{compared}."
        for (first, second), n in pairs.most_common(5)
    ]


def near_copies(site: Site) -> int | None:
    """Return how many of a hospital's images look like an earlier one; None without the extra ``checks``.

    Where there are more than 5,000, of as many that are evenly spread.
    """
    try:
        with extra("checks", "comparing how images look"):
            import imagehash
    except FedMergeError:
        return None
    found: set[int] = set()
    for _, later in _pairs(_looked_at([site], imagehash.phash), lambda _, j: j not in found):
        found.add(later)
    return len(found)


@dataclass(frozen=True, eq=False)
class _Looked:
    """N images that are compared. hashes: bits, uint8 N x 8. where: hospital and split. held: images, and
    the number of one among them."""

    hashes: np.ndarray
    where: Sequence[str]
    held: Sequence[tuple[Tensor, int]]


def _looked_at(sites: Sequence[Site], phash: Callable[..., Any]) -> _Looked:
    """Hash at most ``MOST`` images of the hospitals, without those of one value."""
    hashes, where, held_at = [], [], []
    step = max(1, -(-sum(len(site.everything) for site in sites) // MOST))
    for site in sites:
        for split in ("train", "val", "test"):
            held = getattr(site, split).images[::step]
            facts = facts_of(held)
            for i, flat in enumerate(facts.flat.tolist()):
                if flat:
                    continue
                pixels = held[i]
                shown = Image.fromarray(
                    pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
                )
                hashes.append(np.packbits(phash(shown, hash_size=8).hash.reshape(-1)))
                where.append(f"{site.name} {split}")
                held_at.append((held, i))
    return _Looked(np.array(hashes, dtype=np.uint8).reshape(-1, BITS // 8), where, held_at)


def _pairs(looked: _Looked, wanted: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """Yield the places i < j of look-alikes, of the pairs that are wanted."""
    hashes, held = looked.hashes, looked.held
    for i in range(len(hashes) - 1):
        apart = np.bitwise_count(hashes[i + 1 :] ^ hashes[i]).sum(axis=1)
        for j in (np.flatnonzero(apart <= APART) + i + 1).tolist():
            if wanted(i, j) and 0 < _difference(held[i], held[j]) <= NEAR:
                yield i, j


def _difference(one: tuple[Tensor, int], other: tuple[Tensor, int]) -> float:
    first, second = (images[position].float() for images, position in (one, other))
    return float((first - second).abs().mean())
