"""Read one image file of any kind; its content decides which reader takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmerge.data.files.dicom import SUFFIXES as DICOM_SUFFIXES
from fedmerge.data.files.dicom import is_dicom, read_dicom
from fedmerge.data.files.nifti import is_nifti, read_nifti
from fedmerge.data.files.pictures import read_picture
from fedmerge.data.reading import ReadOptions
from fedmerge.errors import FedMergeError


@dataclass(frozen=True)
class Item:
    """One image of a source: its file, of a volume the plane, and what a table says of it.

    label: its class as text, or one number (0 or 1) a finding. split: ``train``, ``val``, ``test``, or "".
    patient: whose image it is, "" where that is not known.
    """

    file: Path
    label: str | tuple[int, ...] = ""
    split: str = ""
    patient: str = ""
    plane: int | None = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image. pixels: uint8 1 x C x H x W. patient: as the file says, "" where it does not; never written.
    spacing: mm between rows and between columns. inverted: white was 0. burned: text may be in the pixels.
    """

    pixels: Tensor
    patient: str = ""
    spacing: tuple[float, float] | None = None
    inverted: bool = False
    burned: bool = False


def is_file(path: Path) -> bool:
    """Whether a file is there; not if its folder may not be looked into."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_image(item: Item, read: ReadOptions) -> Decoded:
    """Read one image. Raises FedMergeError that begins with the file's name for what is refused."""
    file = item.file
    if not is_file(file):
        raise FedMergeError(f"{file} is not there, or is no file: correct its path, or take out its row.")
    if is_nifti(file):
        plane, spacing = read_nifti(file, read, item.plane)
        return Decoded(as_tensor(plane), spacing=spacing)
    if is_dicom(file) or file.suffix.lower() in DICOM_SUFFIXES:
        found = read_dicom(file, read)
        about = (found.patient, found.spacing, found.inverted, found.burned)
        return Decoded(as_tensor(found.pixels), *about)
    return Decoded(read_picture(file, read))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return pixels H x W or H x W x 3 as 1 x C x H x W."""
    given = torch.from_numpy(np.ascontiguousarray(pixels))
    return given[None, None] if given.ndim == 2 else given.permute(2, 0, 1)[None]
