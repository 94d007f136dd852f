"""Two digits an image, both asked for: several findings an image, from real handwriting."""

from __future__ import annotations

import numpy as np
import torch

from fedmerge.data.images.images import Split
from fedmerge.data.sources.digits import digits
from fedmerge.data.sources.raw import stratified
from fedmerge.seeding import numpy_generator

SIDE = 8
"""Pixels of a digit; an image is twice as high and as wide."""


def digit_pairs() -> dict[str, Split]:
    """Return train, val and test, divided 60/20/20: grey images of 16 x 16 px, and ten findings, N x 10.

    Each image has two of scikit-learn's optical digits in two of its quarters; its findings are the digits
    that are there (one, where both are the same). Digits are divided first, so none is in two splits; each is
    in two images of its split. Always the same.
    """
    levels, labels = digits()
    pixels = torch.from_numpy(np.round(levels * (255 / 16)).astype(np.uint8))[:, None]
    alone = stratified(Split(pixels, torch.from_numpy(labels)), (0.6, 0.2, 0.2), "digits")
    return {name: _paired(split, name) for name, split in alone.items()}


def _paired(split: Split, name: str) -> Split:
    rng = numpy_generator(0, f"digit-pairs-{name}")
    n = len(split)
    members = np.stack([rng.permutation(n), rng.permutation(n)])
    quarters = np.stack([rng.permutation(4)[:2] for _ in range(n)], axis=1)
    images = np.zeros((n, 2 * SIDE, 2 * SIDE), dtype=np.uint8)
    findings = np.zeros((n, 10), dtype=np.uint8)
    for member, quarter in zip(members, quarters, strict=True):
        drawn = split.select(member)
        for at in range(n):
            top, left = SIDE * (quarter[at] // 2), SIDE * (quarter[at] % 2)
            images[at, top : top + SIDE, left : left + SIDE] = drawn.images[at, 0].numpy()
        findings[np.arange(n), drawn.labels.numpy()] = 1
    return Split(torch.from_numpy(images)[:, None], torch.from_numpy(findings))
