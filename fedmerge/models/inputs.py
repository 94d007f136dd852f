"""From stored images to what a network sees: (x / 255 - mean) / std, channel by channel.

Mean and deviation are one pair for all hospitals (``Normalisation``), or each hospital's own (``PerSite``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError, unknown

PER_SITE = "per-site"
LEAST_STD = 1 / 255
"""The least deviation of a hospital's own: that of images of one value is 0."""
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

    def at(self, site: Trains) -> Normalisation:
        """Return the normalisation at a hospital: this one, at all of them."""
        return self

    def of(self, images: Tensor) -> Normalisation:
        """Return the normalisation of a set of images: this one, whatever they are."""
        return self

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


class Trained(Protocol):
    """What a split of a hospital is asked for (``fedmerge.data.Split``)."""

    @property
    def images(self) -> Tensor:
        """Images, uint8 N x C x H x W."""
        ...


class Trains(Protocol):
    """What a hospital is asked for (``fedmerge.data.Site``)."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def train(self) -> Trained:
        """Its training images."""
        ...


_KNOWN: WeakKeyDictionary[Any, Normalisation] = WeakKeyDictionary()
"""Hospitals' own normalisations, computed once in a process."""


@dataclass(frozen=True)
class PerSite:
    """The rule that each hospital normalises by the mean and deviation of its own training images.

    They never leave it: messages and cards say the rule alone. A deviation below 1/255 counts as 1/255.
    """

    per: Literal["site"]

    def __call__(self, images: Tensor) -> Tensor:
        """Refuse to normalise images of nobody in particular."""
        raise FedMergeError(
            "these models take images by each hospital's own mean and deviation: say by whose images "
            "(--normalise SOURCE, or normalisation.of(images) in Python)."
        )

    def at(self, site: Trains) -> Normalisation:
        """Return a hospital's own. Raises FedMergeError where it has no training images here."""
        if site not in _KNOWN:
            if not len(site.train.images):
                raise FedMergeError(
                    f"site '{site.name}' has no training images here, so they have no mean and deviation: "
                    f"choose another normalisation than {PER_SITE}."
                )
            _KNOWN[site] = self.of(site.train.images)
        return _KNOWN[site]

    def of(self, images: Tensor) -> Normalisation:
        """Return that of a set of images, uint8 N x C x H x W; one of them at least."""
        return _own(*channel_levels(images))

    def to_dict(self) -> dict[str, Any]:
        """The rule as it stands in JSON."""
        return asdict(self)


Inputs = Normalisation | PerSite
"""How images become a network's input, as cards and messages say it."""


@dataclass(frozen=True, eq=False)
class PerImage:
    """The normalisations of images from several hospitals. owners: int64 N, whose each image is."""

    each: tuple[Normalisation, ...]
    owners: Tensor

    def only(self, index: Tensor | slice) -> PerImage:
        """Return that of the images at ``index``."""
        return PerImage(self.each, self.owners[index])

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 images, N x C x H x W, each as its owner's are."""
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        for number, normalise in enumerate(self.each):
            mine = (self.owners == number).to(images.device)
            out[mine] = normalise(images[mine])
        return out


Normalise = Callable[[Tensor], Tensor]


def only(normalise: Normalise, index: Tensor | slice) -> Normalise:
    """Return the normalisation of the images at ``index`` (on the CPU) of those that ``normalise`` is for."""
    return normalise.only(index) if isinstance(normalise, PerImage) else normalise


def channel_levels(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return means and standard deviations of all pixels by channel, in units of the range [0, 1].

    images: uint8 N x C x H x W, at least one. Sums are of whole numbers, so the result is the same bits
    whatever the order of images, threads and pieces.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for piece in images.split(64):
        for channel, values in enumerate(piece.transpose(0, 1)):
            counts[channel] += torch.bincount(values.reshape(-1), minlength=256)
    means, deviations = [], []
    for row in counts.tolist():
        n, total = sum(row), sum(value * count for value, count in enumerate(row))
        squares = sum(value * value * count for value, count in enumerate(row))
        means.append(total / (255 * n))
        deviations.append(math.sqrt(n * squares - total * total) / (255 * n))
    return tuple(means), tuple(deviations)


def _own(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
    return Normalisation(mean, tuple(max(each, LEAST_STD) for each in std))


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
