"""A source before hospitals divide it: three splits and the names of the classes, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmerge.data.images.images import Split
from fedmerge.data.partition import divide
from fedmerge.data.sources.file_facts import FileFacts
from fedmerge.errors import FedMergeError
from fedmerge.seeding import numpy_generator

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class RawSource:
    """Images of one source as they are: train, val and test of one native size.

    text: the source in words. class_names: by label, or None where the source does not name them.
    by_name: the labels follow from the names (folders), so another order of classes reorders the labels.
    remarks: on how it was read (files that were left out), in sentences. files: None where it is not files.
    """

    text: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...] | None
    by_name: bool = False
    remarks: tuple[str, ...] = ()
    files: FileFacts | None = None

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, val and test."""
        return self.train, self.val, self.test

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w

    @property
    def many(self) -> bool:
        """Whether an image has several labels, N x F of 0 and 1."""
        return self.train.labels.ndim == 2

    @property
    def n_classes(self) -> int:
        """The number of class names, or else the largest label plus one."""
        if self.class_names is not None:
            return len(self.class_names)
        if self.many:
            return self.train.labels.shape[1]
        return 1 + max(int(s.labels.max()) if len(s) else -1 for s in self.splits)


def raw_source(
    text: str,
    splits: Mapping[str, Split],
    class_names: tuple[str, ...] | None,
    where: str,
    *,
    by_name: bool = False,
    remarks: tuple[str, ...] = (),
) -> RawSource:
    """Make a source of the splits ``train``, ``val`` and ``test``.

    Raises ``FedMergeError`` where the splits differ in image size or in the form of labels, or a label lies
    outside the named classes.
    """
    shapes = {name: tuple(splits[name].images.shape[1:]) for name in SPLITS if len(splits[name])}
    if len(set(shapes.values())) > 1:
        raise FedMergeError(f"{where}: images differ in size between splits, C x H x W {shapes}.")
    columns = {name: splits[name].labels.shape[1:].numel() for name in SPLITS if len(splits[name])}
    if len({(splits[name].labels.ndim, n) for name, n in columns.items()}) > 1:
        has = ", ".join(f"{name}_labels have {n} columns" for name, n in columns.items())
        raise FedMergeError(
            f"{where}: {has}: write one class an image in all splits, or all findings in each."
        )
    if class_names is not None:
        for name in SPLITS:
            check_labels(splits[name], len(class_names), f"{where}, {name}_labels")
    return RawSource(text, splits["train"], splits["val"], splits["test"], class_names, by_name, remarks)


def check_labels(split: Split, n_classes: int, where: str) -> None:
    """Raise ``FedMergeError`` naming the first label that is not in 0 ... n_classes - 1.

    Of several findings an image: for another number of findings.
    """
    if split.labels.ndim == 2:
        if split.labels.shape[1] != n_classes:
            raise FedMergeError(
                f"{where}: labels have {split.labels.shape[1]} columns, a finding each, but {n_classes} "
                "findings are named: name each column under classes:."
            )
        return
    outside = split.labels[split.labels >= n_classes]
    if len(outside):
        raise FedMergeError(
            f"{where}: label {int(outside[0])} lies outside the {n_classes} classes 0 to {n_classes - 1}: "
            f"correct the label, or name more classes under classes:."
        )


def split_from_arrays(
    images: Any, labels: Any, where: str, name: str = "train", patients: Any = None
) -> Split:
    """Check arrays and turn them into a split.

    images: uint8, array N x H x W (grey) or N x H x W x 3 (RGB), or Tensor N x C x H x W. labels: integers
    from 0, N or N x 1; or N x F of 0 and 1, whether each of F findings is there. patients: integers likewise,
    the split's groups; None where they are not known. Raises ``FedMergeError`` that names ``where`` and the
    array for anything else.
    """
    given = images if isinstance(images, torch.Tensor) else _array(images, where, f"{name}_images")
    if isinstance(given, torch.Tensor):
        good = given.ndim == 4 and given.shape[1] in (1, 3)
        layout = "a Tensor N x C x H x W with 1 or 3 channels"
    else:
        good = given.ndim == 3 or (given.ndim == 4 and given.shape[3] in (1, 3))
        layout = "N x H x W, or N x H x W x 3 for RGB"
    dtype = str(given.dtype).removeprefix("torch.")
    if dtype != "uint8" or not good or 0 in given.shape[1:]:
        raise FedMergeError(
            f"{where}: {name}_images should be uint8 (0 to 255), {layout}, but are {dtype} of shape "
            f"{tuple(given.shape)}."
        )
    if isinstance(given, torch.Tensor):
        pixels = given.cpu()
    else:
        pixels = torch.from_numpy(given.copy())
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    checked = _check_label_array(labels, len(pixels), where, name)
    groups = None if patients is None else _integers(patients, len(pixels), where, f"{name}_patients")
    return Split(pixels.contiguous(), checked, groups)


def _check_label_array(labels: Any, n: int, where: str, name: str) -> torch.Tensor:
    array = _array(labels, where, f"{name}_labels")
    if array.ndim == 2 and array.shape[1] > 1:
        return _findings(array, n, where, f"{name}_labels")
    checked = _integers(array, n, where, f"{name}_labels")
    if n and checked.min() < 0:
        raise FedMergeError(f"{where}: {name}_labels hold {checked.min()}, but classes count from 0.")
    return checked


def _findings(array: np.ndarray, n: int, where: str, what: str) -> torch.Tensor:
    """Return labels N x F of 0 and 1 as uint8."""
    if array.dtype.kind not in "iub" or len(array) != n or not np.isin(array, (0, 1)).all():
        raise FedMergeError(
            f"{where}: {what} of several columns should be {n} rows of 0 and 1, a column a finding, but are "
            f"{array.dtype} of shape {array.shape}"
            + (f" with values up to {array.max()}" if array.dtype.kind in "iu" and array.size else "")
            + ": write 1 where a finding is there, else 0."
        )
    return torch.from_numpy(array.astype(np.uint8))


def _array(given: Any, where: str, what: str) -> np.ndarray:
    """Return ``given`` as one array; a Tensor may be on any device."""
    if isinstance(given, torch.Tensor):
        return given.detach().cpu().numpy()
    try:
        return np.asarray(given)
    except (ValueError, TypeError):
        raise FedMergeError(
            f"{where}: {what} are no array of one shape: give all images one size, and each one label."
        ) from None


def _integers(given: Any, n: int, where: str, what: str) -> torch.Tensor:
    array = _array(given, where, what)
    if array.dtype.kind not in "iu" or array.shape not in ((n,), (n, 1)):
        raise FedMergeError(
            f"{where}: {what} should be {n} integers ({n} or {n} x 1), one an image, but are "
            f"{array.dtype} of shape {array.shape}: number the classes, or the patients, by integers."
        )
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise FedMergeError(f"{where}: {what} hold {array.max()}, which is no number of 64 bits with a sign.")
    return torch.from_numpy(array.reshape(n).astype(np.int64))


def stratified(
    split: Split, fractions: tuple[float, float, float], purpose: str, seed: int = 0
) -> dict[str, Split]:
    """Divide one split into train, val and test with the same classes in each, by a fixed named seed."""
    classes, codes = np.unique(split.strata, return_inverse=True)
    proportions = np.repeat(np.array(fractions)[:, None], len(classes), axis=1)
    parts = divide(codes, proportions, numpy_generator(seed, f"split-{purpose}"))
    return {name: split.select(part) for name, part in zip(SPLITS, parts, strict=True)}
