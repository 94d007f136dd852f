"""Images whose class can be seen: each is bright in the quarter of its class, over noise."""

from __future__ import annotations

import numpy as np


def quarters(
    rng: np.random.Generator, n: int, *, noise: int = 60, offset: int = 0, bright: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Return n grey images of 8 x 8 pixels (uint8) and their classes, 0, 1, 2, 0 …"""
    labels = np.arange(n) % 3
    images = rng.integers(0, noise, (n, 8, 8)) + offset
    for image, label in zip(images, labels, strict=True):
        row, column = [(0, 0), (0, 4), (4, 0)][label]
        image[row : row + 4, column : column + 4] += bright
    return images.clip(0, 255).astype(np.uint8), labels
