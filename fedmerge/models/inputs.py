"""From stored images to what a network sees: (x / 255 - mean) / std, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError, unknown

_NAMED = {
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, in units of the range [0, 1].

    One value serves every channel; otherwise there is one value per channel. Raises FedMergeError if the
    two differ in length, a value is not finite, or a standard deviation is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not self.mean or len(self.mean) != len(self.std):
            raise FedMergeError(
                f"a normalisation has {len(self.mean)} means and {len(self.std)} standard deviations: "
                "give the same number of each, one for all channels or one per channel."
            )
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise FedMergeError(
                f"the normalisation mean {self.mean}, std {self.std} is not usable: "
                "every value must be finite and every standard deviation above zero."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 images N x C x H x W into float32 ``(x / 255 - mean) / std`` on the same device.

        Raises FedMergeError for another dtype or shape, or if C is not the number of means.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise FedMergeError(
                f"images must be uint8 N x C x H x W, but these are {images.dtype} "
                f"of shape {tuple(images.shape)}: normalise stored images, and only once."
            )
        if len(self.mean) not in (1, images.shape[1]):
            raise FedMergeError(
                f"images have {images.shape[1]} channels, but the normalisation has {len(self.mean)} means: "
                "give one for all channels or one per channel."
            )
        mean, std = _per_channel(self.mean, images), _per_channel(self.std, images)
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    @classmethod
    def named(cls, name: str) -> Normalisation:
        """``half`` (to [-1, 1]), ``imagenet`` (its three channels) or ``none`` (to [0, 1])."""
        if name not in _NAMED:
            raise unknown("normalisation", name, _NAMED)
        return cls(*_NAMED[name])

    def to_dict(self) -> dict[str, list[float]]:
        """The two lists, as they stand in JSON."""
        return {key: list(values) for key, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Normalisation:
        """The inverse of :meth:`to_dict`; raises FedMergeError for other fields than mean and std."""
        if set(fields) != {"mean", "std"}:
            raise FedMergeError(
                f"a normalisation has the fields mean and std, not {', '.join(fields) or 'none'}."
            )
        return cls(tuple(fields["mean"]), tuple(fields["std"]))


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
