"""What a hospital calls a class, and what the cohort calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedmerge.data.images.images import Split
from fedmerge.data.sources.raw import RawSource, check_labels
from fedmerge.errors import FedMergeError, nearest

Splits = tuple[Split, Split, Split]
Names = tuple[str, ...]


def renamed(raw: RawSource, labels: Mapping[str, str] | None, site: str) -> RawSource:
    """Return a source with its classes, or findings, as the cohort calls them. labels: its name to ours.

    Names that are not in ``labels`` stay. Several of one name become one class; findings, one that is there
    where any of them is. A source that does not name its classes has the names 0, 1, … Raises FedMergeError
    for a name that the source does not have.
    """
    if not labels:
        return raw
    names = raw.class_names or tuple(str(label) for label in range(raw.n_classes))
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise FedMergeError(
            f"site '{site}': labels names '{unknown[0]}', but the classes of {raw.text} are "
            f"{', '.join(names)}."
            f"{nearest(unknown[0], names)}"
        )
    ours = [labels.get(name, name) for name in names]
    known = tuple(sorted(set(ours)))
    splits = [
        replace(split, labels=_moved(split.labels, [known.index(each) for each in ours], len(known)))
        for split in raw.splits
    ]
    train, val, test = splits
    return replace(raw, train=train, val=val, test=test, class_names=known, by_name=True)


def relabel(raw: RawSource, names: Names, where: str) -> Splits:
    """Return the splits with labels as positions in ``names``: by name where names are given, else checked.

    Raises ``FedMergeError`` that begins with ``where`` for a class that is not in ``names``.
    """
    findings = raw.train.labels.ndim == 2 and raw.class_names is not None
    if raw.class_names is None or not (raw.by_name or findings):
        for split in raw.splits:
            check_labels(split, len(names), f"{where}, source '{raw.text}'")
        return raw.splits
    for name in raw.class_names:
        if name not in names:
            raise FedMergeError(
                f"{where}: the class '{name}' of {raw.text} is none of the classes {', '.join(names)}."
                f"{nearest(name, names)} Rename it, say what it is under labels: {{{name}: …}} of the "
                f"site, or name "
                "it under classes:."
            )
    if findings and set(raw.class_names) != set(names):
        lacking = [name for name in names if name not in raw.class_names]
        raise FedMergeError(
            f"{where}: {raw.text} does not say which images show {', '.join(lacking)}: add a column."
        )
    to = [names.index(name) for name in raw.class_names]
    train, val, test = (replace(split, labels=_moved(split.labels, to, len(names))) for split in raw.splits)
    return train, val, test


def _moved(labels: Tensor, to: list[int], n: int) -> Tensor:
    """Return labels with class i as ``to[i]``; of findings, column i in column ``to[i]`` of n."""
    if labels.ndim == 1:
        return torch.tensor(to)[labels]
    out = torch.zeros(len(labels), n, dtype=labels.dtype)
    for column, place in enumerate(to):
        out[:, place] |= labels[:, column]
    return out
