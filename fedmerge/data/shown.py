"""Images as a scanner shows them: in memory, or in the disk cache if they come from there; the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedmerge.data import scanner, streams
from fedmerge.data.cache.derived import derived
from fedmerge.data.images.stored import StoredImages
from fedmerge.data.scanner import Appearance


def shown(images: Tensor, looks: Sequence[Appearance], seed: int, site: str) -> Tensor:
    """Return ``scanner.apply`` of images, uint8 N x C x H x W; raise as it does."""
    if not isinstance(images, StoredImages) or not looks or not len(images):
        return scanner.apply(images, looks, seed, site)
    how = f"scanner {seed} {site} {[look.model_dump() for look in looks]}"
    return derived(images, how, lambda: scanner.seen(images, looks, seed, site), site)


def drifted(images: Tensor, order: np.ndarray, shift: str, seed: int, site: str) -> Tensor:
    """Return what ``streams.drifting`` yields as one: images, uint8 N x C x H x W, at their places."""

    def pieces() -> Iterator[Tensor]:
        return streams.drifting(images, order, shift, seed, site)

    if not isinstance(images, StoredImages) or not len(images):
        return torch.cat([images[:0], *pieces()])
    arrives = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    return derived(images, f"drift {seed} {site} {shift} {arrives}", pieces, site)
