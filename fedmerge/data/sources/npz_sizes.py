"""Check the sizes of arrays in an .npz file by their headers; refuse too large ones before unpacking."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

from numpy.lib import format as npy

from fedmerge.errors import FedMergeError
from fedmerge.storage.outside import check_memory

PACKED = 1032  # the largest ratio by which deflate can compress
SUSPECT, USUAL = 256 * 2**20, 200
"""An array of more bytes than the first is refused if it was packed by more than the second."""
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_sizes(
    path: Path, archive: zipfile.ZipFile, keys: Sequence[str], in_memory: Sequence[str] | None = None
) -> None:
    """Raise FedMergeError for arrays larger than their file can hold, zip bombs, or arrays beyond memory.

    in_memory: those that will be unpacked into memory; None: all.
    """
    total = 0
    for key in keys:
        size = _bytes(path, archive, member(archive, key), key)
        total += size if in_memory is None or key in in_memory else 0
    check_memory(total, f"{path}")


def member(archive: zipfile.ZipFile, key: str) -> str:
    """Return the name in the archive of an array."""
    return key if key in archive.namelist() else f"{key}.npy"


def _bytes(path: Path, archive: zipfile.ZipFile, name: str, key: str) -> int:
    """Return the bytes of an array by its own header; 0 for one that ``numpy.load`` refuses by itself."""
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FedMergeError(f"{path}, {key}: it is packed in a way that numpy does not use: save it anew.")
    held = min(entry.file_size, PACKED * (entry.compress_size + 64))
    with archive.open(entry) as file:
        reader = READERS.get(npy.read_magic(file))
        if reader is None:
            raise FedMergeError(f"{path}, {key}: it is no plain array: save uint8 images and integer labels.")
        shape, _, dtype = reader(file)
    wanted = math.prod(int(length) for length in shape) * dtype.itemsize
    if dtype.hasobject:
        return 0
    if wanted > held:
        raise FedMergeError(
            f"{path}, {key}: its header says {_listed(shape)} numbers, {wanted:,} bytes, and the file holds "
            f"at most {held:,}: it is damaged or cut short; delete it and get it again."
        )
    if wanted > SUSPECT and wanted > USUAL * entry.compress_size:
        raise FedMergeError(
            f"{path}, {key}: {wanted:,} bytes are packed into {entry.compress_size:,}, more than images can "
            f"be: if it is meant, save it with numpy.savez, which does not pack."
        )
    return wanted


def _listed(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{int(length):,}" for length in shape) or "1"
