"""A task's folder as values that travel, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmerge.storage.files import make_folder, write

Packed = dict[str, np.ndarray]
"""The bytes of each file by its path in the folder: uint8, one dimension."""


def pack(folder: Path) -> Packed:
    """Read the regular files of a folder, at any depth, but none through a link."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in files}


def unpack(packed: Packed, folder: Path) -> None:
    """Write the files into a folder, each whole. Raises DiskError; ValueError for a path out of it."""
    for name, content in packed.items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"'{name}' is no path in a task's folder")
        make_folder((folder / path).parent)
        write(folder / path, content.tofile)
