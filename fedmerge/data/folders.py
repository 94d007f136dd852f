"""A folder of images: one subfolder a class, or ``train``, ``val`` and ``test`` with the classes inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedmerge.data.images import Split, resize, to_channels
from fedmerge.data.listing import find_pictures
from fedmerge.data.pictures import read_picture
from fedmerge.data.raw import SPLITS, RawSource, raw_source, stratified
from fedmerge.errors import FedMergeError

FRACTIONS = (0.7, 0.1, 0.2)
MOST_NAMED = 5
HELD_OUT = (0.875, 0.125, 0.0)
"""How training images are divided where a folder has ``train`` and ``test`` but no ``val``."""


def read_folder(
    path: Path, text: str, size: int | None = None, channels: int | None = None, allow: bool = False
) -> RawSource:
    """Read ``path/CLASS/FILE``, or ``path/SPLIT/CLASS/FILE``; classes are the folders in sorted order.

    Without splits, the images are divided 70/10/20 into train, val and test, stratified by class, by a fixed
    seed: the same files always give the same split. With ``train`` and ``test`` alone, val is an eighth of
    train, drawn likewise. ``size`` resizes to size x size. ``channels`` makes all grey (1) or RGB (3);
    without it the set is grey if every image is. allow: files may be left out. Raises ``FedMergeError``
    for whatever ``find_pictures`` and ``read_picture`` refuse, and for images of different sizes without
    ``size``.
    """
    try:
        found = find_pictures(path, allow)
    except OSError as error:
        raise FedMergeError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from None
    classes = tuple(sorted({name for files in found.files.values() for name in files}))
    parts = {split: _labelled(files, classes) for split, files in found.files.items()}
    files = [file for part, _ in parts.values() for file in part]
    whole = _stack(_read_all(files, size, channels), files)
    labels = torch.tensor([label for _, part in parts.values() for label in part], dtype=torch.int64)
    lengths = [len(part) for part, _ in parts.values()]
    pieces = zip(whole.split(lengths), labels.split(lengths), strict=True)
    splits = {split: Split(*piece) for split, piece in zip(parts, pieces, strict=True)}
    remarks = [found.remark(text)]
    if "" in splits:
        splits = stratified(splits[""], FRACTIONS, "folder")
    elif "val" not in splits:
        splits |= {**stratified(splits["train"], HELD_OUT, "folder"), "test": splits["test"]}
        remarks.append(f"{text}: it has no val folder, so {len(splits['val'])} images of train are its val.")
    splits = {name: splits[name] for name in SPLITS}
    said = tuple(remark for remark in remarks if remark)
    return raw_source(text, splits, classes, str(path), by_name=True, remarks=said)


def _labelled(files: dict[str, list[Path]], classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """All files of one split, class by class, and their labels."""
    pairs = [(file, label) for label, name in enumerate(classes) for file in files.get(name, ())]
    return [file for file, _ in pairs], [label for _, label in pairs]


def _read_all(files: Sequence[Path], size: int | None, channels: int | None) -> list[Tensor]:
    """Read every file as uint8 1 x C x H x W; one error names all refused files, the first in full."""
    images, faults = [], []
    for file in files:
        try:
            pixels = read_picture(file)
        except FedMergeError as error:
            faults.append((file, str(error)))
            continue
        pixels = to_channels(pixels, channels) if channels else pixels
        images.append(resize(pixels, size) if size else pixels)
    if faults:
        others = ", ".join(file.name for file, _ in faults[1 : MOST_NAMED + 1])
        more = f" {len(faults) - 1} more files are refused, such as {others}." if others else ""
        raise FedMergeError(faults[0][1] + more)
    return images


def _stack(images: list[Tensor], files: list[Path]) -> Tensor:
    """Stack the images into one Tensor; grey images among RGB ones become RGB."""
    channels = max(image.shape[1] for image in images)
    for image, file in zip(images, files, strict=True):
        if image.shape[2:] != images[0].shape[2:]:
            raise FedMergeError(
                f"images differ in size: {file} is {image.shape[3]} x {image.shape[2]} px and {files[0]} is "
                f"{images[0].shape[3]} x {images[0].shape[2]} px: set size: to resize all."
            )
    return torch.cat([to_channels(image, channels) for image in images])
