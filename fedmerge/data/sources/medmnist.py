"""MedMNIST sets by name: from a file that is here already, or by the package's own download."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, unknown

SIZES = (64, 128, 224)
"""The sizes beside 28 px in which MedMNIST has each set of 2-D images."""
_offline: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Inside the block, download no set, even if it is not on this machine."""
    token = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(token)


def info(name: str) -> dict[str, Any]:
    """MedMNIST's own entry for a set of 2-D images.

    Raises ``FedMergeError`` for an unknown name, and for 3-D sets, which are not supported.
    """
    from medmnist import INFO  # slow: it loads pandas and scikit-learn

    usable = [n for n in INFO if not n.endswith("3d")]
    if name in INFO and name not in usable:
        raise FedMergeError(
            f"medmnist:{name} has 3-D volumes, which are not supported: 2-D images are "
            f"({', '.join(sorted(usable))})."
        )
    if name not in INFO:
        raise unknown("MedMNIST set", name, usable)
    return INFO[name]


def parse(name: str) -> tuple[str, int | None]:
    """Split a name like ``pathmnist_64`` into set and size; ``pathmnist`` has no size: its images are 28 px.

    Raises ``FedMergeError`` for a size that MedMNIST does not have.
    """
    found = re.fullmatch(r"(.+)_(\d+)", name)
    base, size = (found[1], int(found[2])) if found else (name, None)
    if size is not None and size not in SIZES:
        known = ", ".join(f"{base}_{each}" for each in SIZES)
        raise FedMergeError(f"medmnist:{name}: there is no such size: write {base} (28 px), {known}.")
    return base, size


def class_names(name: str) -> tuple[str, ...]:
    """The classes by label, as MedMNIST names them. name: with or without a size."""
    labels = info(parse(name)[0])["label"]
    return tuple(labels[str(i)] for i in range(len(labels)))


def cache_folder() -> Path:
    """MedMNIST's cache, ``~/.medmnist``. Raises ``FedMergeError`` where there is no home folder."""
    try:
        return Path.home() / ".medmnist"
    except RuntimeError:
        raise FedMergeError(
            "MedMNIST's cache has no place, for this user has no home folder: set the environment variable "
            "FEDMERGE_DATA to a folder with the files."
        ) from None


def download(name: str) -> Path:
    """Fetch a set with the medmnist package (which checks its MD5) into the cache; return the file.

    name: with or without a size. The file gets its name only when it is complete. Raises
    ``FedMergeError`` where the set cannot be had, or the cache cannot be made or written.
    """
    target = cache_folder() / f"{name}.npz"
    if _offline.get():
        raise FedMergeError(f"medmnist:{name} is not on this machine, and nothing is downloaded here.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _fetch(name, Path(folder), target)
            os.replace(Path(folder) / target.name, target)
    except OSError as error:
        raise FedMergeError(
            f"medmnist:{name} is not on this machine, and its cache {target.parent} cannot be written "
            f"({error.strerror or error}): make it a folder that can, or put {name}.npz into a folder and "
            "set the environment variable FEDMERGE_DATA to that."
        ) from None
    return target


def _fetch(name: str, folder: Path, target: Path) -> None:
    import medmnist

    base, size = parse(name)
    sized = {} if size is None else {"size": size}
    try:
        getattr(medmnist, info(base)["python_class"])(split="train", download=True, root=folder, **sized)
    except (OSError, RuntimeError):
        url = info(base)["url" if size is None else f"url_{size}"]
        raise FedMergeError(
            f"medmnist:{name} is not on this machine and could not be downloaded: fetch {url} where there "
            f"is a network, and put {name}.npz into {target.parent} or into the folder that the environment "
            "variable FEDMERGE_DATA names."
        ) from None


def try_download(name: str) -> bool:
    """Try to fetch a set into the cache, once a process, and return whether that worked."""
    return not _offline.get() and _tried(name, cache_folder())


@functools.lru_cache(maxsize=64)
def _tried(name: str, cache: Path) -> bool:
    try:
        download(name)
    except FedMergeError:
        return False
    return True
