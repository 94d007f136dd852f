"""A folder of DICOM files: one subfolder a class, or splits with the classes inside, and patients below."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from fedmerge.data.files.dicom import SUFFIXES, is_dicom
from fedmerge.data.files.many import Look
from fedmerge.data.files.one import Item
from fedmerge.data.sources.listed import Listed, read_listed
from fedmerge.data.sources.listing import NO_SUFFIX, NOTES, class_of, counted, folders_in, is_junk, splits_in
from fedmerge.data.sources.raw import RawSource
from fedmerge.errors import FedMergeError

INDEX = "DICOMDIR"


def read_dicom_folder(path: Path, text: str, look: Look) -> RawSource:
    """Read ``path/CLASS/…/FILE``, or ``path/SPLIT/CLASS/…/FILE``: DICOM files at any depth below a class.

    A patient's files may lie in folders of their own: the files say themselves whose they are, and a patient
    comes into one split. Other files are left out and counted. Raises FedMergeError as ``read_listed`` does,
    and for a folder without classes or a class without files.
    """
    try:
        items, others = _find(path)
    except OSError as error:
        raise FedMergeError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from None
    said = (
        f"{text}: {others.total()} files that are no DICOM are left out ({counted(others)})."
        if others
        else ""
    )
    remarks = (said,) if said else ()
    return read_listed(
        Listed(items, text, path, "folder", named=True, remarks=remarks, left_out=others), look
    )


def _find(path: Path) -> tuple[list[Item], Counter[str]]:
    items: list[Item] = []
    others: Counter[str] = Counter()
    for split, folder in splits_in(path).items():
        classes = list(folders_in(folder))
        if not classes:
            raise FedMergeError(
                f"{folder} has no subfolders: put the files of each class into a folder of its own, or "
                f"write a "
                "table (csv:FILE) that says what each shows."
            )
        for place in classes:
            files = _below(place, others)
            if not files:
                raise FedMergeError(f"{place} holds no DICOM file: add some, or remove the folder.")
            items += [Item(file, class_of(place), split) for file in files]
    return items, others


def _below(folder: Path, others: Counter[str]) -> list[Path]:
    """Return the DICOM files below a folder, in order; count what is none of them."""
    found = []
    for above, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        for name in sorted(names):
            file = Path(above, name)
            if is_junk(name) or name == INDEX or file.suffix.lower() in NOTES:
                continue
            if file.suffix.lower() in SUFFIXES or is_dicom(file):
                found.append(file)
            else:
                others[file.suffix.lower() or NO_SUFFIX] += 1
    return found
