"""Images of a large .npz file, unpacked into the disk cache some rows at a time."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmerge.data.cache import made
from fedmerge.data.cache import place as places
from fedmerge.data.cache.made import Take, Work, file_stamp, stamped, usable
from fedmerge.data.files.many import About
from fedmerge.data.progress import tell
from fedmerge.data.sources.npz_sizes import header_of, member
from fedmerge.errors import FedMergeError

VERSION = 1
"""Raised whenever the same file would give other pixels."""
AT_ONCE = 2**20
"""Bytes that are unpacked at a time."""


def stored_images(path: Path, archive: zipfile.ZipFile) -> dict[str, Callable[[], Tensor]]:
    """Return how to open each array of images, by key; empty where they are small, or there is no cache.

    An array that is no uint8 N x H x W or N x H x W x 3, row by row, is left to whoever checks it.
    """
    shapes = {}
    for key in ("train_images", "val_images", "test_images"):
        with archive.open(member(archive, key)) as file:
            shape, fortran, dtype = header_of(file, f"{path}, {key}") or ((), False, None)
        grey_or_colours = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        if dtype != np.uint8 or fortran or not grey_or_colours or 0 in shape[1:]:
            return {}
        if shape[0]:
            shapes[key] = shape
    folder = places.place()
    if folder is None or sum(map(math.prod, shapes.values())) < made.SMALL_DECODED or not usable(folder):
        return {}
    return {key: partial(_open, path, key, shape, folder) for key, shape in shapes.items()}


def _open(path: Path, key: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    stamp = hashlib.sha256(f"npz {VERSION} {key} {path} {file_stamp(path)}".encode(errors="surrogateescape"))
    work = Work(shape[0], partial(_fill, path, key, shape), f"{path.name}, {key}")
    return stamped(folder, stamp.hexdigest()[:32], partial(_content, path, key), work)[0]


def _content(path: Path, key: str) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    found.update(f"\0npz {VERSION} {key}".encode())
    return found.hexdigest()[:32]


def _fill(path: Path, key: str, shape: tuple[int, ...], take: Take) -> About:
    row = math.prod(shape[1:])
    rows = max(1, AT_ONCE // row)
    with zipfile.ZipFile(path) as archive, archive.open(member(archive, key)) as file:
        header_of(file, f"{path}, {key}")
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            given = file.read(count * row)
            if len(given) < count * row:
                raise FedMergeError(f"{path} is damaged or cut short: delete it and get it again.")
            piece = torch.from_numpy(np.frombuffer(given, dtype=np.uint8).reshape(count, *shape[1:]).copy())
            piece = piece.unsqueeze(1) if piece.ndim == 3 else piece.permute(0, 3, 1, 2)
            for i, image in enumerate(piece.split(1)):
                take(start + i, image)
            tell(f"unpacking {path.name}", start + count, shape[0])
    return About()
