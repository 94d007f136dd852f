"""A source from a list of items: their pixels read, their classes numbered, their splits made or checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from fedmerge.data.cache.made import read_items
from fedmerge.data.files.many import About, Look, squares
from fedmerge.data.files.one import Item
from fedmerge.data.images.images import Split
from fedmerge.data.sources.file_facts import FileFacts, spacing_of
from fedmerge.data.sources.patients import held_apart, numbered
from fedmerge.data.sources.raw import SPLITS, RawSource, raw_source
from fedmerge.errors import FedMergeError

FRACTIONS = (0.7, 0.1, 0.2)
HELD_OUT = (0.875, 0.125, 0.0)
"""How training images are divided where a source has train and test but no val."""


@dataclass(frozen=True)
class Listed:
    """Items and what is known of them as one source. text: as written; where: its file or folder.

    findings: names of the findings, where labels are several. purpose: names the draw of the splits.
    everybody: the patients of the whole table, which number them alike for several hospitals. named: classes
    are names even where all are numbers. left_out: files beside the items that are not read, by kind.
    """

    items: Sequence[Item]
    text: str
    where: Path
    purpose: str
    findings: tuple[str, ...] | None = None
    everybody: Sequence[str] = ()
    named: bool = False
    remarks: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_listed(listed: Listed, look: Look) -> RawSource:
    """Read the items' pixels and return the source.

    Classes are texts in sorted order; where all are whole numbers from 0, they are the labels. Splits are as
    the items say; without, 70/10/20 by class, and by patient where patients are known, by a fixed seed: the
    same items always give the same splits. Without a val, an eighth of train is it, likewise. Raises
    FedMergeError as ``decode`` does, and where some images have a split and others none.
    """
    items = listed.items
    images, about = read_items(items, look, listed.text)
    labels, names, by_name = _labels(listed)
    patients = [item.patient or found for item, found in zip(items, about.patients, strict=True)]
    groups = numbered(patients, listed.everybody)
    whole = Split(images, labels, None if groups is None else torch.from_numpy(groups))
    splits, divided = _splits(listed, whole)
    remarks = [*listed.remarks, *divided, *_remarks(listed.text, about, look)]
    said = tuple(filter(None, remarks))
    raw = raw_source(listed.text, splits, names, str(listed.where), by_name=by_name, remarks=said)
    sizes = Counter((width, height) for height, width in about.sizes)
    return replace(raw, files=FileFacts(sizes, listed.left_out, spacing_of(about.spacing)))


def _labels(listed: Listed) -> tuple[torch.Tensor, tuple[str, ...] | None, bool]:
    """Return the labels, the names of classes or findings, and whether labels follow from names."""
    if listed.findings is not None:
        found = np.array([item.label for item in listed.items], dtype=np.uint8)
        return torch.from_numpy(found.reshape(-1, len(listed.findings))), listed.findings, False
    given = [str(item.label) for item in listed.items]
    if not listed.named and all(each.isdecimal() and len(each) < 10 for each in set(given)):
        return torch.tensor([int(each) for each in given], dtype=torch.int64), None, False
    names = tuple(sorted(set(given)))
    at = {name: label for label, name in enumerate(names)}
    return torch.tensor([at[each] for each in given], dtype=torch.int64), names, True


def _splits(listed: Listed, whole: Split) -> tuple[dict[str, Split], list[str]]:
    parts = np.array([item.split for item in listed.items])
    held = Counter(parts.tolist())
    if set(held) == {""}:
        made = held_apart(whole, FRACTIONS, listed.purpose, listed.text)
        by = [f"{listed.text}: {_patients(whole)} patients are divided, each with all images into one split."]
        return made, by if whole.groups is not None else []
    if "" in held or not {"train", "test"} <= set(held):
        raise FedMergeError(
            f"{listed.text}: its images are for {', '.join(name or 'nothing' for name in held)}; train "
            f"and test "
            "are needed, and every image must be for one of train, val and test: correct the column, or "
            "take it "
            "out to have the images divided."
        )
    splits = {name: whole.select(np.flatnonzero(parts == name)) for name in SPLITS if name in held}
    if "val" in splits:
        return splits, []
    held_out = held_apart(splits["train"], HELD_OUT, listed.purpose, listed.text)
    kind = "val folder" if listed.named else "val"
    said = f"{listed.text}: it has no {kind}, so {len(held_out['val'])} images of train are its val."
    return {**held_out, "test": splits["test"]}, [said]


def _patients(whole: Split) -> int:
    return 0 if whole.groups is None else len(torch.unique(whole.groups))


def _remarks(text: str, about: About, look: Look) -> list[str]:
    """Say what was done to the images that nobody asked for by name."""
    said, n = [], len(about.sizes)
    uneven = squares(about)
    if uneven and look.size and look.read.fit is None:
        said.append(
            f"{text}: {uneven} of {n} images are not square and were stretched to {look.size} x "
            f"{look.size}: set "
            "read: {fit: crop} or {fit: pad} to keep their aspect ratio, or {fit: stretch} if it is meant."
        )
    if about.inverted:
        said.append(f"{text}: {about.inverted} of {n} images had white as 0 (MONOCHROME1) and were inverted.")
    if about.burned:
        said.append(
            f"{text}: {about.burned} of {n} files say that text is burned into the image: it may name a "
            f"patient."
        )
    known = [each for each in about.spacing if each is not None]
    if known and look.size is None and len(set(known)) > 1:
        low, high = min(min(each) for each in known), max(max(each) for each in known)
        if high > 1.5 * low:
            said.append(
                f"{text}: a pixel is {low:.3g} to {high:.3g} mm wide: sizes of things differ between images."
            )
    return said
