"""Keep images on the disk, where the service's people asked for it; by default none is written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from fedmerge.storage.files import make_folder, write


def keep_images(folder: Path, pictures: Sequence[Tensor], batch: int) -> None:
    """Write each picture as ``batch-000001/0000.png``, whole or not at all. Raises DiskError."""
    place = folder / f"batch-{batch:06d}"
    make_folder(place)
    rows = [row for picture in pictures for row in picture]
    for number, row in enumerate(rows):
        write(place / f"{number:04d}.png", partial(_put, as_png(row)))


def as_png(picture: Tensor) -> bytes:
    """Return a picture, uint8 C x H x W with C of 1 or 3, as a PNG's bytes."""
    array = picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def _put(content: bytes, file: Path) -> None:
    file.write_bytes(content)
