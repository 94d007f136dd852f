"""A split: images and their labels, and the few things done to whole sets of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.data.images.stored import StoredImages, join
from fedmerge.errors import FedMergeError
from fedmerge.tasks.label_sets import strata


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    images: uint8 Tensor, N x C x H x W, values 0-255, on the CPU (or a ``StoredImages``, on disk). labels:
    int64 Tensor, N; or, of several findings an image, uint8 Tensor of 0 and 1, N x F.
    groups: int64 Tensor, N, whose image each one is (patients); None where that is not known.
    Raises ``FedMergeError`` for another dtype or shape.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise FedMergeError(
                f"images should be a uint8 Tensor N x C x H x W, but are {self.images.dtype} "
                f"of shape {tuple(self.images.shape)}."
            )
        for name, given in (("labels", self.labels), ("groups", self.groups)):
            if name == "labels" and self._are_findings:
                continue
            if given is not None and (given.dtype != torch.int64 or given.shape != self.images.shape[:1]):
                raise FedMergeError(
                    f"{name} should be an int64 Tensor of length {len(self.images)}, but are {given.dtype} "
                    f"of shape {tuple(given.shape)}."
                )

    @property
    def _are_findings(self) -> bool:
        labels = self.labels
        return labels.ndim == 2 and labels.dtype == torch.uint8 and len(labels) == len(self.images)

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self, n_classes: int) -> Tensor:
        """How many samples each class, or each finding, has: int64 Tensor, n_classes."""
        if self.labels.ndim == 2:
            return self.labels.long().sum(0)
        return torch.bincount(self.labels, minlength=n_classes)

    @property
    def present(self) -> np.ndarray:
        """The classes, or the findings, that a sample has: int64, in order."""
        found = self.labels.any(0).nonzero().flatten() if self._are_findings else torch.unique(self.labels)
        return found.numpy()

    @property
    def strata(self) -> np.ndarray:
        """What streams and draws take for a sample's class: int64 N; of several findings, its label set."""
        return strata(self.labels.numpy())

    def select(self, index: np.ndarray | Tensor) -> Split:
        """The samples at ``index`` (integers, or a mask), in that order."""
        at = torch.as_tensor(index)
        images = self.images.pick(at) if isinstance(self.images, StoredImages) else self.images[at]
        return Split(images, self.labels[at], None if self.groups is None else self.groups[at])


def concat(splits: Sequence[Split], apart: bool = False) -> Split:
    """Join the splits, one after the other; keep groups where every split has them.

    apart: groups of two splits are never the same, whatever their numbers; else equal numbers are one group.
    """
    labels, images = torch.cat([s.labels for s in splits]), _joined([s.images for s in splits])
    groups = [s.groups for s in splits if s.groups is not None]
    if len(groups) < len(splits):
        return Split(images, labels)
    if apart:
        codes = [torch.unique(numbers, return_inverse=True) for numbers in groups]
        first = np.cumsum([0, *(len(found) for found, _ in codes)])
        groups = [code + int(start) for (_, code), start in zip(codes, first[:-1], strict=True)]
    return Split(images, labels, torch.cat(groups))


def _joined(images: Sequence[Tensor]) -> Tensor:
    """Join images; where some are stored, nothing is read, and empty ones in memory are left out."""
    if not any(isinstance(each, StoredImages) for each in images):
        return torch.cat(list(images))
    return join([each for each in images if len(each)] or [images[0]])


def resize(images: Tensor, size: int) -> Tensor:
    """Images as ``size`` x ``size`` pixels, bilinear with antialiasing; the aspect ratio is not kept.

    images: uint8 N x C x H x W. Returns uint8 N x C x size x size.
    """
    if images.shape[2:] == (size, size):
        return images
    out = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 1024):  # in pieces: the float copy is four times the images
        piece = images[start : start + 1024].float()
        piece = functional.interpolate(piece, (size, size), mode="bilinear", antialias=True)
        out[start : start + 1024] = piece.round().clamp(0, 255).to(torch.uint8)
    return out


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Grey images repeated to RGB, or RGB weighted to grey (ITU-R BT.601 luma); uint8 N x C x H x W."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * luma).sum(1, keepdim=True).round().to(torch.uint8)
