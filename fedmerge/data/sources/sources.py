"""Where a hospital's images come from: a source is one string in YAML, or arrays in memory.

``digits``, ``digit-pairs`` (embedded in scikit-learn), ``medmnist:NAME`` (or ``medmnist:NAME_64``, ``_128``,
``_224``), ``npz:PATH``, ``folder:PATH``, ``csv:FILE``, ``parquet:FILE``, ``dicom:DIR``, or ``Arrays``; or
``remote``: the images are at the hospital and not here. ``SOURCES`` holds the kinds; a plug-in can add one.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmerge.data.files.many import Look
from fedmerge.data.files.one import is_file
from fedmerge.data.images.images import Split
from fedmerge.data.reading import Reading
from fedmerge.data.sources import medmnist
from fedmerge.data.sources.dicom_folders import read_dicom_folder
from fedmerge.data.sources.digit_pairs import digit_pairs
from fedmerge.data.sources.digits import digits
from fedmerge.data.sources.folders import read_folder
from fedmerge.data.sources.listed import Listed, read_listed
from fedmerge.data.sources.listing import NOT_THERE
from fedmerge.data.sources.npz import read_npz
from fedmerge.data.sources.raw import RawSource, raw_source, split_from_arrays, stratified
from fedmerge.data.sources.source_kinds import SOURCES, Source, SourceRequest
from fedmerge.data.sources.tables import files_of, read_table
from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.schema.validation import is_there
from fedmerge.storage.data_folder import named_folder

REMOTE = "remote"
KIND_OF = {".npz": "npz", ".csv": "csv", ".parquet": "parquet"}
"""The kind of source that a file is, by its suffix."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory as the source of a site.

    images: uint8 array N x H x W or N x H x W x 3, or Tensor N x C x H x W; labels: integers from 0, N; or 0
    and 1, N x F, of F findings an image. val, test: pairs (images, labels) likewise. Where both are None the
    samples are divided 60/20/20, stratified by class, by a fixed seed. ``str()`` of it holds a hash of the
    content.
    """

    images: Any
    labels: Any
    val: tuple[Any, Any] | None = None
    test: tuple[Any, Any] | None = None
    class_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        digest = hashlib.sha256()
        for pair in ((self.images, self.labels), self.val, self.test):
            for array in pair or ():
                digest.update(np.ascontiguousarray(array).tobytes())
        shape = " x ".join(map(str, np.shape(self.images)))
        return f"arrays ({shape}, {digest.hexdigest()[:12]})"


def load_source(
    source: str | Arrays,
    folder: Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    allow: bool = False,
    how: Reading | None = None,
) -> RawSource:
    """Load a source: three splits, class names or None, images in their native size.

    folder: where relative paths may also start (the folder of the YAML file). size, channels: given to
    sources of single files, whose images may differ. how: the hospital's options of pixels and columns. Of
    ``medmnist:NAME`` with a size of 64, 128 or 224 MedMNIST's own file of that size is read; where it
    cannot be had but the one of 28 px is here, that is read, with a remark. allow: image folders may leave
    out files (see ``find_pictures``). Raises ``FedMergeError`` for an unknown form, a missing or damaged
    file, labels outside the classes, and images that are not here.
    """
    if isinstance(source, Arrays):
        return _from_arrays(source)
    kind, rest = parse_source(source)
    asked = SourceRequest(source, rest, folder, size, channels, allow, how or Reading())
    found = SOURCES[kind].call(asked)
    if isinstance(found, Arrays):
        return replace(_from_arrays(found), text=source)
    if not isinstance(found, RawSource):
        raise FedMergeError(
            f"source '{short(source)}' gave {type(found).__name__}: its kind '{kind}' must return "
            "fedmerge.data.Arrays, or a RawSource."
        )
    return found


def parse_source(source: str) -> tuple[str, str]:
    """Kind and rest of a source string; ``FedMergeError`` with the allowed forms for anything else."""
    kind, _, rest = source.partition(":")
    if kind in SOURCES and SOURCES[kind].takes_rest == bool(rest) and (rest or source == kind):
        return kind, rest
    forms = [known.form for known in SOURCES]
    raise FedMergeError(
        f"unknown source '{short(source)}'.{nearest(kind, SOURCES.names())} Allowed: {', '.join(forms)}."
    )


def kind_of(source: str) -> Source:
    """Return the kind of a source string. Raises ``FedMergeError`` as ``parse_source`` does."""
    return SOURCES[parse_source(source)[0]]


def source_key(source: str | Arrays, folder: Path | None = None, size: int | None = None) -> object:
    """Return a key that is equal for sources of the same images, however their paths are written.

    size: of the cohort, by which MedMNIST's file is chosen, and fetched if need be. The key of a MedMNIST set
    that is not here is a text, ``medmnist:NAME_64``.
    """
    if isinstance(source, Arrays):
        return id(source)
    kind, rest = parse_source(source)
    key = SOURCES[kind].key
    return source if key is None else key(SourceRequest(source, rest, folder, size))


def medmnist_set(source: str | Arrays) -> str | None:
    """The MedMNIST set that a source names, without its size; None where it names none."""
    kind, name = ("", "") if isinstance(source, Arrays) else parse_source(source)
    return medmnist.parse(name)[0] if kind == "medmnist" else None


def _medmnist_file(name: str, size: int | None) -> tuple[str, Path | None]:
    """Return the set to read (its size as written, the cohort's or 28 px), and its file if it is here."""
    base, written = medmnist.parse(name)
    wanted = name if written or size not in medmnist.SIZES else f"{base}_{size}"
    places = [medmnist.cache_folder()]
    if path := _find(f"{wanted}.npz", None, places):
        return wanted, path
    smaller = _find(f"{name}.npz", None, places)
    if smaller and not medmnist.try_download(wanted):
        return name, smaller
    return wanted, _find(f"{wanted}.npz", None, places)


@SOURCES.source("digits", form="digits")
def _digits(asked: SourceRequest) -> RawSource:
    """The optical digits of scikit-learn: 1797 grey images of 8 x 8 with 16 levels, divided 60/20/20."""
    levels, labels = digits()
    images = np.round(levels * (255 / 16)).astype(np.uint8)
    whole = Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels))
    names = tuple(str(digit) for digit in range(10))
    return raw_source("digits", stratified(whole, (0.6, 0.2, 0.2), "digits"), names, "digits")


@SOURCES.source("digit-pairs", form="digit-pairs")
def _digit_pairs(asked: SourceRequest) -> RawSource:
    """Two of these digits in each image of 16 x 16, and ten findings: which digits are there."""
    names = tuple(str(digit) for digit in range(10))
    return raw_source("digit-pairs", digit_pairs(), names, "digit-pairs")


def _medmnist_key(asked: SourceRequest) -> Path | str:
    found, path = _medmnist_file(asked.rest, asked.size)
    return path or f"medmnist:{found}"


@SOURCES.source("medmnist", form="medmnist:NAME", key=_medmnist_key)
def _medmnist(asked: SourceRequest) -> RawSource:
    """A MedMNIST set; ``NAME_64``, ``_128`` and ``_224`` are its larger sizes."""
    source, name, size = asked.text, asked.rest, asked.size
    found, path = _medmnist_file(name, size)
    raw = read_npz(path or medmnist.download(found), source, medmnist.class_names(name))
    base, written = medmnist.parse(found)
    if written or size not in medmnist.SIZES:
        return raw
    remark = (
        f"{source}: {base}_{size}.npz is not here and could not be downloaded, so the images of 28 px are "
        f"enlarged to {size}, which adds no detail."
    )
    return replace(raw, remarks=(remark,))


def data_folder() -> Path:
    """Where image files lie: the environment variable FEDMERGE_DATA, or else MedMNIST's cache."""
    return named_folder() or medmnist.cache_folder()


def locate(name: str, folder: Path | None, source: str) -> Path:
    """Find the file or folder ``name`` in the data folder or in ``folder``; return its absolute path.

    Raises ``FedMergeError`` that names the places searched and says how to provide the file.
    """
    found = _find(name, folder)
    if found is None:
        places = [str(data_folder())] + ([str(folder)] if folder else [])
        raise FedMergeError(
            f"source '{short(source)}': there is no {short(name)} in {' or '.join(places)}: put it there, or "
            "set the environment variable FEDMERGE_DATA to the folder that has it."
        )
    kind = source.partition(":")[0]
    if found.is_dir() != (kind in ("folder", "dicom")):
        what, other = (
            ("a folder", "folder") if found.is_dir() else ("a file", KIND_OF.get(found.suffix.lower()))
        )
        do = f"write {other}:{name}" if other else "name the folder that it is in"
        raise FedMergeError(f"source '{source}': {found} is {what}: {do}.")
    return found


def _find(name: str, folder: Path | None, more: list[Path] | None = None) -> Path | None:
    for place in (data_folder(), folder, *(more or [])):
        if place is not None and is_there(found := place / os.path.expanduser(name)):
            return found.resolve()
    return None


def _path(asked: SourceRequest) -> Path:
    return locate(asked.rest, asked.folder, asked.text)


@SOURCES.source("npz", form="npz:PATH", key=_path)
def _npz(asked: SourceRequest) -> RawSource:
    """A file of arrays: train_images, train_labels, and so for val and test."""
    return read_npz(_path(asked), asked.text)


@SOURCES.source("folder", form="folder:PATH", key=_path)
def _folder(asked: SourceRequest) -> RawSource:
    """A folder of images, a folder a class."""
    return read_folder(_path(asked), asked.text, _look(asked), asked.allow)


@SOURCES.source("dicom", form="dicom:PATH", key=_path)
def _dicom(asked: SourceRequest) -> RawSource:
    """A folder of DICOM files, a folder a class, at any depth below it; patients as the files say."""
    return read_dicom_folder(_path(asked), asked.text, _look(asked))


def _listed_files(asked: SourceRequest) -> list[Path]:
    return files_of(_path(asked), asked.how.table)


def _table(asked: SourceRequest) -> RawSource:
    path, table = _path(asked), asked.how.table
    items, everybody = read_table(path, table, asked.how.site)
    remarks: tuple[str, ...] = ()
    there = [item for item in items if is_file(item.file)] if asked.allow else items
    if len(there) < len(items):
        remarks = (
            f"{asked.text}: {len(items) - len(there)} of {len(items)} rows name a file that is not there, "
            "and are left out.",
        )
    if not there:
        raise FedMergeError(f"{path}: none of the files that it names is there, such as {items[0].file}.")
    gone = {NOT_THERE: len(items) - len(there)} if len(there) < len(items) else {}
    listed = Listed(
        there, asked.text, path, "table", table.findings, everybody, remarks=remarks, left_out=gone
    )
    return read_listed(listed, _look(asked))


@SOURCES.source("csv", form="csv:PATH", key=_path, files=_listed_files)
def _csv(asked: SourceRequest) -> RawSource:
    """A table of image files: a row an image, with its class or findings, split and patient."""
    return _table(asked)


@SOURCES.source("parquet", form="parquet:PATH", key=_path, files=_listed_files)
def _parquet(asked: SourceRequest) -> RawSource:
    """A table of image files, as csv, in a parquet file."""
    return _table(asked)


def _look(asked: SourceRequest) -> Look:
    return Look(asked.how.read, asked.size, asked.channels)


@SOURCES.source(REMOTE, form=REMOTE)
def _remote(asked: SourceRequest) -> RawSource:
    """Images that are at a hospital, whose own file says the rest."""
    raise FedMergeError("source 'remote': these images are at a hospital, so they cannot be loaded here.")


def _from_arrays(arrays: Arrays) -> RawSource:
    train = split_from_arrays(arrays.images, arrays.labels, "arrays")
    if (arrays.val is None) != (arrays.test is None):
        raise FedMergeError(
            "arrays: give both val and test, or neither to have the samples divided 60/20/20."
        )
    if arrays.val is None or arrays.test is None:
        splits = stratified(train, (0.6, 0.2, 0.2), "arrays")
    else:
        val = split_from_arrays(*arrays.val, "arrays", "val")
        splits = {"train": train, "val": val, "test": split_from_arrays(*arrays.test, "arrays", "test")}
    return raw_source(str(arrays), splits, arrays.class_names, "arrays")
