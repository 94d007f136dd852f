"""What FedMerge finds on this machine: versions, devices, data, Ray, Flower, locale, disk and extras."""

from __future__ import annotations

import locale
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil

from fedmerge.data import cohort_names, read_cohort
from fedmerge.data.sources.sources import data_folder, load_source
from fedmerge.errors import FedMergeError
from fedmerge.storage.data_folder import named_folder

Level = Literal["good", "note", "bad"]
LEAST_FREE = 2 * 2**30
"""Bytes of free disk below which there is a note."""
NEEDED_AT_LEAST = (3, 11)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: ``bad``: something will not work; ``note``: something may not."""

    what: str
    level: Level
    words: str


def findings(folder: Path = Path()) -> Iterator[Finding]:
    """Yield what is found on this machine; ``folder`` is where runs would be written. Nothing is changed."""
    yield from _versions()
    yield _devices()
    yield from _data()
    yield _ray()
    yield _locale()
    yield from _room(folder)
    yield from _extras()


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    fine = sys.version_info >= NEEDED_AT_LEAST
    yield Finding(
        "python", "good" if fine else "bad", python if fine else f"{python}: 3.11 or newer is needed"
    )
    for name in ("fedmerge", "torch", "torchvision", "flwr", "numpy", "pandas"):
        yield _package(name)


def _package(name: str) -> Finding:
    """Say the version of a package, and whether it is one that FedMerge accepts."""
    from packaging.requirements import Requirement

    found = _installed(name)
    if found is None:
        return Finding(name, "bad", f"not installed: pip install {name}")
    asked = [Requirement(text) for text in requires("fedmerge") or () if _name_of(text) == name]
    wrong = [each for each in asked if each.marker is None and found not in each.specifier]
    if wrong:
        return Finding(
            name, "bad", f"{found}, but FedMerge needs {wrong[0].specifier}: pip install '{wrong[0]}'"
        )
    return Finding(name, "good", found)


def _devices() -> Finding:
    import torch

    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total / 2**30
    words = f"{cores} CPU cores, {memory:.0f} GiB memory"
    if not torch.cuda.is_available():
        return Finding("devices", "good", f"{words}; no CUDA device: `auto` is the CPU")
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    try:
        torch.ones(1, device="cuda").add(1).item()
    except RuntimeError as error:
        return Finding(
            "devices", "bad", f"{words}; {', '.join(cards)} cannot be used ({error}): set --device cpu"
        )
    return Finding("devices", "good", f"{words}; {', '.join(cards)}")


def _data() -> Iterator[Finding]:
    folder, named = data_folder(), named_folder() is not None
    if named and not folder.is_dir():
        yield Finding("data folder", "bad", f"FEDMERGE_DATA names {folder}, which is no folder: change it")
    else:
        where = "FEDMERGE_DATA" if named else "MedMNIST's cache; FEDMERGE_DATA is not set"
        yield Finding("data folder", "good", f"{folder} ({where})")
    here: list[str] = []
    away: list[str] = []
    for name in cohort_names():
        (here if _is_here(name) else away).append(name)
    words = f"here: {', '.join(here) or 'none'}; not here: {', '.join(away) or 'none'}"
    yield Finding("cohorts", "good" if here else "note", words)


def _is_here(name: str) -> bool:
    """Whether a cohort's files are on this machine; none is read or downloaded."""
    from fedmerge.data.sources.medmnist import cache_folder
    from fedmerge.data.sources.sources import parse_source

    try:
        spec = read_cohort(name)
        kinds = [parse_source(str(spec.source_of(site))) for site in spec.sites]
    except FedMergeError:
        return False
    places = [place for place in (data_folder(), cache_folder(), spec.folder) if place is not None]
    files = {"npz": "{}", "folder": "{}", "medmnist": "{}.npz"}
    return all(
        kind not in files or any((place / files[kind].format(rest)).exists() for place in places)
        for kind, rest in kinds
    )


def _ray() -> Finding:
    found = _installed("ray")
    if found is None:
        return Finding(
            "ray", "good", "not installed: needed for --backend ray alone (pip install 'fedmerge[ray]')"
        )
    address = os.environ.get("RAY_ADDRESS")
    return Finding("ray", "good", f"{found}; RAY_ADDRESS is {address or 'not set, so Ray would start here'}")


def _locale() -> Finding:
    encoding, named = (
        locale.getpreferredencoding(False),
        os.environ.get("LC_ALL") or os.environ.get("LANG") or "C",
    )
    words = f"{named}, text is {encoding}, files are {sys.getfilesystemencoding()}"
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
        return Finding("locale", "note", f"{words}: names with accents may fail; set LC_ALL=C.UTF-8")
    return Finding("locale", "good", words)


def _room(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    words = f"{free / 2**30:.1f} GiB free in {folder.resolve()}"
    if not os.access(folder, os.W_OK):
        yield Finding("disk", "bad", f"{words}, which cannot be written: run elsewhere, or give --out")
    elif free < LEAST_FREE:
        yield Finding("disk", "note", f"{words}: large runs need more")
    else:
        yield Finding("disk", "good", words)
    try:
        load_source("digits")
    except FedMergeError as error:
        yield Finding("quickstart's images", "bad", str(error))
    else:
        yield Finding("quickstart's images", "good", "read")


def _extras() -> Iterator[Finding]:
    """Say of each extra whether its packages are installed."""
    from packaging.requirements import Requirement

    packages: dict[str, list[str]] = {}
    for text in requires("fedmerge") or ():
        if found := re.search(r"extra == ['\"]([a-z-]+)['\"]", text):
            name = Requirement(text).name
            if name != "fedmerge" and found[1] not in ("all", "dev"):
                packages.setdefault(found[1], []).append(name)
    for extra, names in sorted(packages.items()):
        missing = [name for name in names if _installed(name) is None]
        words = (
            f"{', '.join(missing)} not installed: pip install 'fedmerge[{extra}]'" if missing else "installed"
        )
        yield Finding(f"extra {extra}", "good", words)


def _name_of(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0] if found else ""


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
