"""Images that look alike though their pixels differ: the same picture compressed or resized another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from fedmerge.data.cohort import Site
from fedmerge.data.facts import facts_of
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
    hashes, where, held_at = [], [], []
    total = sum(len(site.everything) for site in sites)
    step = max(1, -(-total // MOST))
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
                hashes.append(np.packbits(imagehash.phash(shown, hash_size=8).hash.reshape(-1)))
                where.append(f"{site.name} {split}")
                held_at.append((held, i))
    pairs = _pairs(np.array(hashes, dtype=np.uint8).reshape(-1, BITS // 8), where, held_at)
    compared = f", of {len(hashes):,} of {total:,} images" if step > 1 else ""
    return [
        f"images that look alike though their pixels differ: {n} pairs between {first} and "
        f"{second}{compared}."
        for (first, second), n in pairs.most_common(5)
    ]


def _pairs(
    hashes: np.ndarray, where: Sequence[str], held_at: Sequence[tuple[Tensor, int]]
) -> Counter[tuple[str, str]]:
    """Count pairs of look-alikes in different parts. held_at: where each image is."""
    found: Counter[tuple[str, str]] = Counter()
    for i in range(len(hashes) - 1):
        apart = np.bitwise_count(hashes[i + 1 :] ^ hashes[i]).sum(axis=1)
        for j in (np.flatnonzero(apart <= APART) + i + 1).tolist():
            if where[i] != where[j] and 0 < _difference(held_at[i], held_at[j]) <= NEAR:
                found[where[i], where[j]] += 1
    return found


def _difference(one: tuple[Tensor, int], other: tuple[Tensor, int]) -> float:
    first, second = (images[position].float() for images, position in (one, other))
    return float((first - second).abs().mean())
