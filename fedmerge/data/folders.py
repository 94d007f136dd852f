"""A folder of images: one subfolder a class, JPEG or PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedmerge.data.images import Split, resize, to_channels
from fedmerge.data.raw import RawSource, raw_source, stratified
from fedmerge.errors import FedMergeError

SUFFIXES = (".jpg", ".jpeg", ".png")
FRACTIONS = (0.7, 0.1, 0.2)
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_folder(path: Path, text: str, size: int | None = None, channels: int | None = None) -> RawSource:
    """Read ``path/CLASS/*.jpg|png``; classes are the subfolders in sorted order.

    The images are divided 70/10/20 into train, val and test, stratified by class, by a fixed seed: the same
    files always give the same split. ``size`` resizes to size x size. ``channels`` makes all grey (1) or RGB
    (3); without it the set is grey if every image is. Raises ``FedMergeError`` for a folder without classes
    or images, images of different sizes without ``size``, and an image that cannot be read or is not 8-bit.
    """
    classes = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise FedMergeError(
            f"{path} has no subfolders: put the images of each class into a folder of its own."
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (path / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise FedMergeError(
                f"{path / name} holds no .jpg or .png images: add some, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    images = [_read(file, size, channels) for file in files]
    whole = Split(_stack(images, files), torch.tensor(labels, dtype=torch.int64))
    return raw_source(text, stratified(whole, FRACTIONS, "folder"), tuple(classes), str(path), by_name=True)


def _read(file: Path, size: int | None, channels: int | None) -> Tensor:
    """One image as uint8 1 x C x H x W."""
    try:
        with Image.open(file) as image:
            if image.mode not in EIGHT_BIT:
                raise FedMergeError(
                    f"{file} is not an 8-bit image (mode {image.mode}): convert it to 8 bits."
                )
            grey = image.mode in ("1", "L", "LA")
            array = np.array(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise FedMergeError(f"{file} cannot be read as an image: replace or remove it.") from None
    pixels = torch.from_numpy(array)
    pixels = pixels[None, None] if grey else pixels.permute(2, 0, 1)[None]
    pixels = to_channels(pixels, channels) if channels else pixels
    return resize(pixels, size) if size else pixels


def _stack(images: list[Tensor], files: list[Path]) -> Tensor:
    """One Tensor; grey images among RGB ones become RGB."""
    channels = max(image.shape[1] for image in images)
    for image, file in zip(images, files, strict=True):
        if image.shape[2:] != images[0].shape[2:]:
            raise FedMergeError(
                f"images differ in size: {file} is {image.shape[3]} x {image.shape[2]} px and {files[0]} is "
                f"{images[0].shape[3]} x {images[0].shape[2]} px: set size: to resize all."
            )
    return torch.cat([to_channels(image, channels) for image in images])
