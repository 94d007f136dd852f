"""Check the sizes of arrays in an .npz file by their headers; refuse too large ones before unpacking."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fedmerge.errors import FedMergeError
from fedmerge.storage.outside import check_memory

PACKED = 1032  # the largest ratio by which deflate can compress
SUSPECT, USUAL = 256 * 2**20, 200
"""An array of more bytes than the first is refused if it was packed by more than the second."""
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def check_sizes(
    path: Path, archive: zipfile.ZipFile, keys: Sequence[str], in_memory: Sequence[str] | None = None
) -> None:
    """Raise FedMergeError for arrays larger than their file can hold, zip bombs, or arrays beyond memory.

    Also for two of one name, of which readers would take one. in_memory: those that will be unpacked into
    memory; None: all.
    """
    names = [member(archive, key) for key in keys]
    if double := [key for key, name in zip(keys, names, strict=True) if archive.namelist().count(name) > 1]:
        raise FedMergeError(f"{path} has two arrays '{double[0]}': save it anew with the one that is meant.")
    total = 0
    for key in keys:
        size = _bytes(path, archive, member(archive, key), key)
        total += size if in_memory is None or key in in_memory else 0
    check_memory(total, f"{path}")


def member(archive: zipfile.ZipFile, key: str) -> str:
    """Return the name in the archive of an array."""
    return key if key in archive.namelist() else f"{key}.npy"


def header_of(file: IO[bytes], where: str) -> Header | None:
    """Return shape, order and dtype of an array, and leave the file at its numbers; None for another format.

    Raises FedMergeError for a header that says nothing of the kind, whatever numpy raises for it.
    """
    try:
        reader = READERS.get(npy.read_magic(file))
        if reader is None:
            return None
        shape, fortran, dtype = reader(file)
        if all(type(length) is int and length >= 0 for length in shape):
            return shape, fortran, dtype
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise  # of the file, not of the header
    except Exception:  # ValueError, TypeError, tokenize's errors, RecursionError, …
        pass
    raise FedMergeError(
        f"{where}: its header is that of no array: it is damaged; get it again, or save it anew."
    )


def _bytes(path: Path, archive: zipfile.ZipFile, name: str, key: str) -> int:
    """Return the bytes of an array by its own header; 0 for one that ``numpy.load`` refuses by itself."""
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FedMergeError(f"{path}, {key}: it is packed in a way that numpy does not use: save it anew.")
    held = min(entry.file_size, PACKED * (entry.compress_size + 64))
    with archive.open(entry) as file:
        found = header_of(file, f"{path}, {key}")
    if found is None:
        raise FedMergeError(f"{path}, {key}: it is no plain array: save uint8 images and integer labels.")
    shape, _, dtype = found
    wanted = math.prod(shape) * dtype.itemsize
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
