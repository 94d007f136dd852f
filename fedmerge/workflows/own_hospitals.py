"""The file of a project's hospitals that have images of their own, as `fedmerge new` writes it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from fedmerge.data.files.pictures import SUFFIXES
from fedmerge.data.sources.new_cohort import new_cohort
from fedmerge.errors import FedMergeError

TEXT = """\
# Who the hospitals are. `fedmerge sites check sites/hospitals.yaml` looks at their images before training.
title: My hospitals
{size:<24}# images become so many pixels wide and high; without it they stay as they are
# channels: 1           # 1 grey, 3 RGB; where the hospitals' images differ
# minimum: {{samples: 10, classes: 2}}

# Paths are seen from this file. A source is a folder with one folder for each class, with or without train,
# val and test above; a table (csv:FILE); DICOM files; or arrays (npz:FILE). The unseen one does not train.
sites:
{sites}"""
USUAL_SIZE, LOOKED_AT = 64, 20
"""Pixels of a side where a hospital's images differ in size or are larger; how many of each are looked at."""


@dataclass(frozen=True)
class Hospitals:
    """Hospitals with images of their own.

    places: a folder, table or .npz file by the hospital's name. unseen: who does not train; the last where
    none is named. size: pixels of a side, or None: as they are, if they are alike and small.
    """

    places: Mapping[str, Path]
    unseen: tuple[str, ...] = ()
    size: int | None = None


def cohort_text(folder: Path, own: Hospitals) -> str:
    """Return the cohort's file for a project in ``folder``. Raises FedMergeError for places that are none."""
    sites = new_cohort(own.places, own.unseen, None, {})["sites"]
    if len(sites) < 2:
        raise FedMergeError("name two hospitals at least: one that trains, and one that is unseen.")
    if not own.unseen:
        sites[-1]["unseen"] = True
    size = own.size or _size(own.places.values())
    for site in sites:
        kind, _, place = site["source"].partition(":")
        site["source"] = f"{kind}:{_seen_from(folder.absolute() / 'sites', folder.absolute(), Path(place))}"
    listed = yaml.safe_dump(sites, sort_keys=False, allow_unicode=True, default_flow_style=None, width=200)
    return TEXT.format(size=f"size: {size}" if size else f"# size: {USUAL_SIZE}", sites=listed)


def _seen_from(sites: Path, project: Path, place: Path) -> str:
    """Return a path from the cohort's file where images lie in or beside the project; else the whole."""
    near = place.is_relative_to(project.parent)
    return Path(os.path.relpath(place, sites)).as_posix() if near else str(place)


def _size(places: Iterable[Path]) -> int | None:
    """Return the side that images get: None where the first of each folder are alike and not large."""
    sizes = set()
    for place in places:
        files = (each for each in sorted(place.rglob("*")) if each.suffix.lower() in SUFFIXES)
        for file in itertools.islice(files, LOOKED_AT) if place.is_dir() else ():
            try:
                with Image.open(file) as opened:
                    sizes.add(opened.size)
            except OSError:
                continue  # what cannot be read is named when the cohort is
    return USUAL_SIZE if len(sizes) > 1 or any(max(size) > USUAL_SIZE for size in sizes) else None
