"""Cheaper scoring of the sources: on some images of a batch, smaller images, or not on every batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.schema.typed import check_types
from fedmerge.tasks import MULTICLASS, Task


@dataclass(frozen=True)
class Probe:
    """How the sources are scored. The merged model always predicts every image at full size.

    images: at most so many of a batch, evenly spaced; None: all. size: images are reduced to size x size
    (area average); None: as they are; for networks that take any size. every: score each k-th batch and keep
    the coefficients in between. drift: score in between too, when the merged model's mean prediction has
    moved by more than this total variation distance (0 to 1) since the last scoring; None: never.

    One scoring of M sources costs M * images / N * (size / full size)^2 passes in place of M.
    """

    images: int | None = None
    size: int | None = None
    every: int = 1
    drift: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("images", "size", "every"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise FedMergeError(f"the probe's {name} is {value}; it must be a whole number, at least 1.")
        if self.drift is not None and not 0 <= self.drift <= 1:
            raise FedMergeError(f"the probe's drift is {self.drift}; it is a distance from 0 to 1.")
        if self.drift is not None and self.every == 1:
            raise FedMergeError(
                "the probe's drift is for batches that are not scored: set every to 2 or more."
            )

    def chosen(self, batch: Tensor) -> Tensor | None:
        """The indices of the images of a batch to score, evenly spaced, on its device; None for all."""
        count = len(batch)
        if self.images is None or self.images >= count:
            return None
        return (torch.arange(self.images, device=batch.device) * count + count // 2) // self.images

    def reduce(self, images: Tensor) -> Tensor:
        """The images N x C x H x W at the probe's size; those that are no larger stay as they are."""
        if self.size is None or max(images.shape[2:]) <= self.size:
            return images
        return functional.adaptive_avg_pool2d(images, self.size)

    def moved(self, logits: Tensor, predictions: Tensor | None, task: Task = MULTICLASS) -> bool:
        """Whether the mean prediction of ``logits``, N x C, is over ``drift`` from ``predictions``, C."""
        if self.drift is None or predictions is None:
            return False
        return task.distance(task.p(logits).mean(dim=0), predictions) > self.drift

    def cost(self, images: Tensor) -> float:
        """Return the cost of one source on the probe of ``images``, in passes over all at full size."""
        count = len(images) if self.images is None else min(self.images, len(images))
        pixels = images.shape[2] * images.shape[3]
        small = pixels if self.size is None else min(pixels, self.size * self.size)
        return count / len(images) * small / pixels


FULL = Probe()
"""All images of every batch, at full size."""
