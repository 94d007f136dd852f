"""A folder of images: one subfolder a class, or ``train``, ``val`` and ``test`` with the classes inside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fedmerge.data.files.many import Look
from fedmerge.data.files.one import Item
from fedmerge.data.sources.listed import Listed, read_listed
from fedmerge.data.sources.listing import find_pictures
from fedmerge.data.sources.raw import RawSource
from fedmerge.errors import FedMergeError


def read_folder(path: Path, text: str, look: Look, allow: bool = False) -> RawSource:
    """Read ``path/CLASS/FILE``, or ``path/SPLIT/CLASS/FILE``; classes are the folders in sorted order.

    Without splits, the images are divided 70/10/20 into train, val and test, stratified by class, by a fixed
    seed: the same files always give the same split. With ``train`` and ``test`` alone, val is an eighth of
    train, drawn likewise. look: how the images are read and resized. allow: files may be left out. Raises
    ``FedMergeError`` for whatever ``find_pictures`` and ``read_picture`` refuse, and for images of different
    sizes without a size.
    """
    try:
        found = find_pictures(path, allow)
    except OSError as error:
        raise FedMergeError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from None
    classes = sorted({name for files in found.files.values() for name in files})
    items = [
        Item(file, name, split)
        for split, files in found.files.items()
        for name in classes
        for file in files.get(name, ())
    ]
    remarks = tuple(filter(None, [found.remark(text)]))
    lost: Counter[str] = sum(found.lost.values(), Counter())
    return read_listed(Listed(items, text, path, "folder", named=True, remarks=remarks, left_out=lost), look)
