"""Write images and arrays into an .npz file, images some at a time."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

AT_ONCE = 2**20
"""Bytes of images that are packed at a time."""


def write_npz(path: Path, images: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that ``numpy.load`` reads as it reads one of ``numpy.savez_compressed``.

    images: uint8 N x C x H x W, also ``StoredImages``, which are read some at a time; written N x H x W for
    one channel, else N x H x W x C. arrays: of plain types. Raises OSError.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, given in images.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_images(file, given)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)


def _write_images(file: Any, images: Tensor) -> None:
    n, channels, height, width = images.shape
    shape = (n, height, width) if channels == 1 else (n, height, width, channels)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for piece in images.split(max(1, AT_ONCE // math.prod(images.shape[1:]))) if n else ():
        file.write(np.ascontiguousarray(piece.numpy().transpose(0, 2, 3, 1)).data)
