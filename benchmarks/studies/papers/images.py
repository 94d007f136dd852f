"""Image sets of the paper studies: 32 x 32 pixels in colour, drawn by a seed, with the files' own splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from fedmerge.data import Split
from fedmerge.errors import FedMergeError
from fedmerge.seeding import generator

SIDE = 32
CLASSES = {"tiny": 20, "tiny-start": 50}
"""Classes of the file with 100 that a set holds: its own, disjoint from those of the start."""
FILES = {
    "digits": "digits_usps", "cells": "wbc_barcelona_28", "breast": "breastmnist", "retina": "retinamnist",
    "pneumonia": "pneumoniamnist", "melanoma": "melanoma_vidir_modern_64", "tiny": "tinyimagenet100_32",
    "tiny-start": "tinyimagenet100_32",
}  # fmt: skip
"""By short name; any other name is that of a file in ``FEDMERGE_DATA``, without its ending."""
COHORTS = {
    "pacs": tuple(f"pacs_{each}" for each in ("art_painting", "cartoon", "photo", "sketch")),
    "blood": tuple(f"wbc_{each}_28" for each in ("barcelona", "bccd", "cellavision", "tecom")),
}
"""Hospitals or styles of one task, each with a file."""


class Pictures(NamedTuple):
    """The images of a set: uint8 N x 3 x 32 x 32 each, with labels from 0."""

    train: Split
    val: Split
    test: Split
    classes: int


def pictures(name: str, seed: int, most: int, tested: int) -> Pictures:
    """Return a set: at most ``most`` training images, ``tested`` of validation and of test, by the seed.

    Classes of ``tiny`` and ``tiny-start`` are drawn by the seed. Raises FedMergeError where the file is not
    there.
    """
    path = Path(os.environ.get("FEDMERGE_DATA", "data")) / f"{FILES.get(name, name)}.npz"
    if not path.is_file():
        raise FedMergeError(f"'{path}' is missing: set FEDMERGE_DATA to the folder of the image sets.")
    with np.load(path, allow_pickle=False) as held:
        raw = {key: held[key] for key in held.files if key.endswith(("_images", "_labels"))}
    chosen = _classes(name, int(raw["train_labels"].max()) + 1, seed)
    parts = [
        _part(torch.from_numpy(raw[f"{part}_images"]), torch.from_numpy(raw[f"{part}_labels"]), chosen)
        for part in ("train", "val", "test")
    ]
    limits = zip(("train", "val", "test"), parts, (most, tested, tested), strict=True)
    return Pictures(
        *(_few(split, limit, f"{name} {part}", seed) for part, split, limit in limits), len(chosen)
    )


def _classes(name: str, count: int, seed: int) -> Tensor:
    order = torch.arange(count)
    if name in CLASSES:
        order = torch.randperm(count, generator=generator(seed, "classes"))
        first = 0 if name == "tiny" else count - CLASSES[name]
        order = order[first : first + CLASSES[name]]
    return order


def _part(images: Tensor, labels: Tensor, chosen: Tensor) -> Split:
    where = torch.full((int(max(labels.max(), chosen.max())) + 1,), -1)
    where[chosen] = torch.arange(len(chosen))
    codes = where[labels.long().flatten()]
    return Split(_square(images[codes >= 0]), codes[codes >= 0])


def _square(images: Tensor) -> Tensor:
    """Colour, channels first, 32 px: 64 px by means of four, smaller ones with their edge repeated."""
    images = images[..., None] if images.ndim == 3 else images
    images = images.movedim(-1, 1)
    images = images.expand(-1, 3, -1, -1).float()
    if images.shape[-1] == 2 * SIDE:
        images = avg_pool2d(images, 2)
    lacking = SIDE - images.shape[-1]
    first = lacking // 2
    images = pad(images, [first, lacking - first] * 2, mode="replicate")
    return images.round().to(torch.uint8)


def _few(split: Split, most: int, purpose: str, seed: int) -> Split:
    order = torch.randperm(len(split), generator=generator(seed, purpose))
    return split.select(order[:most].sort().values)
