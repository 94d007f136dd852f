"""Facts about a hospital's images, computed once, before its scanner changes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts of N images: digests, 16 bytes, equal for equal pixels; lowest and highest value, uint8, N."""

    digests: tuple[bytes, ...]
    lowest: np.ndarray
    highest: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """Which images have one value in all pixels and channels: bool, N."""
        return self.lowest == self.highest

    def at(self, index: np.ndarray) -> Facts:
        """Return the facts of the images at ``index``, integers."""
        digests = tuple(self.digests[i] for i in index.tolist())
        return Facts(digests, self.lowest[index], self.highest[index])


def facts_together(facts: Sequence[Facts]) -> Facts:
    """Return the facts of several sets of images as those of one, one after the other."""
    if len(facts) == 1:
        return facts[0]
    digests = tuple(digest for each in facts for digest in each.digests)
    lowest, highest = ([getattr(each, name) for each in facts] for name in ("lowest", "highest"))
    return Facts(digests, np.concatenate(lowest), np.concatenate(highest))


def facts_of(images: Tensor) -> Facts:
    """Compute the facts of images, uint8 N x C x H x W. 10,000 grey images of 64 px take about 0.1 s."""
    rows = np.ascontiguousarray(images.numpy()).reshape(len(images), math.prod(images.shape[1:]))
    digests = tuple(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    return Facts(digests, rows.min(axis=1, initial=255), rows.max(axis=1, initial=0))
