"""Facts about a source's files, beside their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

VARIES = 0.01
"""By what share of the median spacing must differ to be said to vary."""


@dataclass(frozen=True)
class Spacing:
    """How far apart pixels are in the files, before images are resized.

    rows, columns: medians, mm, to three digits. varies: whether an image differs from them by more than 1 %.
    images: how many say it.
    """

    rows: float
    columns: float
    varies: bool
    images: int


@dataclass(frozen=True)
class FileFacts:
    """What a source's files are like. sizes: images by width and height as stored. left_out: files that may
    be images and are not read, by kind. spacing: None where no file says it."""

    sizes: Mapping[tuple[int, int], int]
    left_out: Mapping[str, int]
    spacing: Spacing | None = None


def spacing_of(found: Sequence[tuple[float, float] | None]) -> Spacing | None:
    """Return what images say of their spacing, mm between rows and between columns; None for nothing."""
    known = np.array([each for each in found if each is not None], dtype=np.float64).reshape(-1, 2)
    if not len(known):
        return None
    middle = np.median(known, axis=0)
    varies = bool((np.abs(known - middle) > VARIES * middle).any())
    return Spacing(float(f"{middle[0]:.3g}"), float(f"{middle[1]:.3g}"), varies, len(known))
