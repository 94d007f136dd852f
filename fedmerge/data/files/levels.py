"""Bring an image's values to 0 to 255: by a window, by percentiles, or by the range of its bits."""

from __future__ import annotations

import numpy as np

from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError

ADVICE = "set read: {window: [centre, width]}, {window: full} or {percentiles: [low, high]} for the hospital"


def to_bytes(
    values: np.ndarray, read: ReadOptions, limits: tuple[float, float], counted: np.ndarray | None = None
) -> np.ndarray:
    """Return values as uint8 by ``read``'s window or percentiles.

    values: numbers of any shape. limits: the least and the greatest value that the file's bits can say.
    counted: the values over which percentiles are taken; by default all. A window (c, w) is DICOM's linear
    function (PS3.3 C.11.2.1.2.1): y = 255 ((x - (c - 0.5)) / (w - 1) + 0.5), cut at 0 and 255; one of width 1
    is a threshold. Raises FedMergeError, without the file's name, where neither is set, and for values that
    are not finite.
    """
    if not np.isfinite(values).all():
        raise FedMergeError("holds values that are not finite: save it without NaN and infinity.")
    if read.percentiles is not None:
        some = values if counted is None or not counted.any() else values[counted]
        low, high = np.percentile(some, read.percentiles)
        return between(values, float(low), float(high))
    if read.window == "full":
        return between(values, *limits)
    if isinstance(read.window, tuple):
        centre, width = read.window
        return windowed(values, centre, width)
    raise FedMergeError(f"has {limits[1] - limits[0] + 1:,.0f} levels, more than 256: {ADVICE}.")


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return uint8: low becomes 0, high 255, linear between; all 0 where they are one."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def windowed(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Return uint8 by a window of DICOM: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID`` (PS3.3 C.11.2.1.3)."""
    x = values.astype(np.float64)
    if function == "SIGMOID":
        return np.rint(255 / (1 + np.exp((-4 * (x - centre) / width).clip(-700, 700)))).astype(np.uint8)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width <= 0:  # a threshold
        return np.where(x > centre, 255, 0).astype(np.uint8)
    return np.rint((255 * ((x - centre) / width + 0.5)).clip(0, 255)).astype(np.uint8)
