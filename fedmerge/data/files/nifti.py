"""Read one plane of a NIfTI volume as 8-bit pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedmerge.data.files.levels import to_bytes
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError
from fedmerge.extras import extra

SUFFIXES = (".nii", ".nii.gz")
MOST_VALUES = 1_000_000_000


def is_nifti(file: Path) -> bool:
    """Whether a file is named as a NIfTI volume."""
    return file.name.lower().endswith(SUFFIXES)


def read_nifti(
    file: Path, read: ReadOptions, plane: int | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a plane as uint8 H x W, and the mm between its rows and columns.

    The volume is turned to the canonical axes (right, anterior, superior); the plane lies across ``axis``,
    its first axis from bottom to top, so that a head stands upright. plane: its number, or else
    ``read.slice`` (``middle``: half of their number, rounded down). Raises FedMergeError that begins with
    the file's name.
    """
    with extra("nifti", "a NIfTI volume"):
        import nibabel
    chosen = read.slice if plane is None else plane
    if chosen is None:
        raise FedMergeError(
            f"{file} is a volume: set read: {{slice: middle}} or a number, or give the table a column slice."
        )
    try:
        loaded: Any = nibabel.load(file)
        slope, inter = float(loaded.dataobj.slope), float(loaded.dataobj.inter)
        volume = nibabel.as_closest_canonical(loaded)  # type: ignore[no-untyped-call]
        shape, zooms = volume.shape, volume.header.get_zooms()
        more = len(shape) - 3  # axes of length 1 behind the third say nothing
        shape = shape[:3] if more > 0 and set(shape[3:]) == {1} else shape
        if len(shape) != 3 or np.prod(shape, dtype=np.int64) > MOST_VALUES:
            raise FedMergeError(f"{file} has the shape {shape}: one volume of three axes is read.")
        count = shape[read.axis]
        at = count // 2 if chosen == "middle" else int(chosen)
        if at >= count:
            raise FedMergeError(
                f"{file} has {count} planes across axis {read.axis}, so there is no plane {at}."
            )
        if 0 in shape:
            raise FedMergeError(f"{file} has the shape {shape}, so there is nothing in it: replace it.")
        index = tuple(at if axis == read.axis else slice(None) for axis in range(3)) + (0,) * max(more, 0)
        if volume.get_data_dtype().kind not in "iuf":
            raise FedMergeError(f"{file} holds no plain numbers ({volume.get_data_dtype()}): save them.")
        values = np.asarray(volume.dataobj[index], dtype=np.float64)
    except FedMergeError:
        raise
    except Exception:
        raise FedMergeError(f"{file} cannot be read as a NIfTI volume: replace or remove it.") from None
    across, up = (float(zooms[axis]) for axis in range(3) if axis != read.axis)
    try:
        kind = volume.get_data_dtype()
        ends = np.iinfo(kind) if kind.kind in "iu" else None
        limits = (float(ends.min), float(ends.max)) if ends else (float(values.min()), float(values.max()))
        if ends:  # the numbers that stand in the file are scaled
            limits = (limits[0] * slope + inter, limits[1] * slope + inter)
        shown = to_bytes(values, read, (min(limits), max(limits)))
    except FedMergeError as error:
        raise FedMergeError(f"{file} {error}") from None
    return np.ascontiguousarray(shown.T[::-1]), (up, across)
