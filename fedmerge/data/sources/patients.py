"""Divide by patient: all images of one patient come to one split, and to one hospital."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmerge.data.images.images import Split
from fedmerge.data.partition import divide
from fedmerge.data.sources.raw import SPLITS, stratified
from fedmerge.errors import FedMergeError
from fedmerge.seeding import numpy_generator

LEAST = 10
"""Patients without whom a source is not divided by itself."""


def numbered(patients: Sequence[str], everybody: Sequence[str] = ()) -> np.ndarray | None:
    """Return patients as numbers, int64 N, in the order in which they come; None where nobody is named.

    An image without a patient is one of its own. everybody: patients who have the first numbers.
    """
    if not any(patients):
        return None
    known: dict[object, int] = {each: number for number, each in enumerate(dict.fromkeys(everybody))}
    keys = [each or ("", position) for position, each in enumerate(patients)]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def held_apart(
    split: Split, fractions: tuple[float, float, float], purpose: str, where: str, seed: int = 0
) -> dict[str, Split]:
    """Divide a split into train, val and test by class, and by patient where patients are known.

    A patient counts as one of the class that most of its images have (the first of several), and patients are
    divided as ``stratified`` divides images, largest first within a class so that images come near the
    fractions, too. Raises FedMergeError for fewer than 10 patients.
    """
    if split.groups is None:
        return stratified(split, fractions, purpose, seed)
    people, whose = np.unique(split.groups.numpy(), return_inverse=True)
    if len(people) < LEAST:
        raise FedMergeError(
            f"{where}: it has {len(people)} patients, too few to divide by patient (at least {LEAST}): "
            f"say which "
            "image is for what, in a column split or in folders train, val and test."
        )
    rng = numpy_generator(seed, f"split-{purpose}")
    part = _spread(_class_of(split, whose, len(people)), np.bincount(whose), np.array(fractions), rng)
    return {name: split.select(np.flatnonzero(part[whose] == i)) for i, name in enumerate(SPLITS)}


def divide_whole(
    split: Split, strata: np.ndarray, proportions: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Divide samples over sites as ``partition.divide`` does, but a patient's images all to one site.

    strata: N, the class of each sample. proportions: sites x classes.
    """
    if split.groups is None:
        return divide(strata, proportions, rng)
    people, whose = np.unique(split.groups.numpy(), return_inverse=True)
    kinds = _majority(strata, whose, len(people))
    parts = divide(kinds, proportions, rng)
    return [np.flatnonzero(np.isin(whose, part)).astype(np.int64) for part in parts]


def in_several(splits: Sequence[Split]) -> int:
    """Return how many patients have images in more than one of the splits."""
    seen = [np.unique(split.groups.numpy()) for split in splits if split.groups is not None]
    if not seen:
        return 0
    _, counts = np.unique(np.concatenate(seen), return_counts=True)
    return int((counts > 1).sum())


def _spread(
    kinds: np.ndarray, sizes: np.ndarray, fractions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return which part each patient goes to: the part that lacks most of its share of the class's images."""
    part = np.empty(len(kinds), dtype=np.int64)
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        members = members[np.argsort(-sizes[members], kind="stable")]
        wanted, held = fractions * sizes[members].sum(), np.zeros(len(fractions))
        for person in members:
            lacking = np.where(fractions > 0, wanted - held, -np.inf)
            part[person] = int(lacking.argmax())
            held[part[person]] += sizes[person]
    return part


def _class_of(split: Split, whose: np.ndarray, people: int) -> np.ndarray:
    labels = split.labels.numpy()
    codes = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    return _majority(codes, whose, people)


def _majority(codes: np.ndarray, whose: np.ndarray, people: int) -> np.ndarray:
    counts = np.zeros((people, int(codes.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (whose, codes), 1)
    return counts.argmax(axis=1)
