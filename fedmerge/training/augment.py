"""Random changes of a batch of images that keep what a medical image shows, by name, done on its device.

Each takes uint8 images (N x C x H x W), a CPU generator, so that the draws do not depend on the device, and
how far it may go; it returns images of the same shape and dtype. Every image has a draw of its own.
torchvision's ``v2`` transforms draw from the global random state, one draw a batch, so ``v2.functional`` gets
our draws here, image by image. Where it cannot do the same (a border that reflects) a batch goes through one
``grid_sample``: the tests hold it against ``v2.functional``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedmerge.errors import unknown

Change = Callable[[Tensor, torch.Generator, float], Tensor]


def flip(images: Tensor, generator: torch.Generator, amount: float) -> Tensor:
    """Mirror each image left to right."""
    return images.flip(-1)


def vertical_flip(images: Tensor, generator: torch.Generator, amount: float) -> Tensor:
    """Mirror each image top to bottom."""
    return images.flip(-2)


def shift(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Move each image on each axis by up to ``share`` of its side, at least a pixel; reflect at borders."""
    count, channels, height, width = images.shape
    rows = _reflected(_offsets(count, height, share, generator), height).to(images.device)
    columns = _reflected(_offsets(count, width, share, generator), width).to(images.device)
    moved = images.gather(2, rows.view(count, 1, height, 1).expand(count, channels, height, width))
    return moved.gather(3, columns.view(count, 1, 1, width).expand(count, channels, height, width))


def rotate(images: Tensor, generator: torch.Generator, degrees: float) -> Tensor:
    """Turn each image about its centre by up to ``degrees`` either way, bilinear, reflecting at borders."""
    angles = (2 * torch.rand(len(images), generator=generator) - 1) * math.radians(degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    aspect = images.shape[-2] / images.shape[-1]
    turns = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], dim=1).view(-1, 2, 3)
    return _sampled(images, turns)


def zoom(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Scale each image about its centre by 1/factor to factor (log-uniform), reflecting at borders."""
    scales, zero = 1 / _factors(len(images), factor, generator), torch.zeros(len(images))
    grow = torch.stack([scales, zero, zero, zero, scales, zero], dim=1).view(-1, 2, 3)
    return _sampled(images, grow)


def contrast(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Scale each image's values about its own mean by 1/factor to factor (log-uniform); the mean stays."""
    factors = _per_image(_factors(len(images), factor, generator), images)
    values = images.float()
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + factors * (values - mean)).round_().clamp_(0, 255).to(images.dtype)


def brightness(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Scale each image's values by 1/factor to factor (log-uniform), cut at 255: ``adjust_brightness``."""
    from torchvision.transforms.v2.functional import adjust_brightness

    return _each(images, _factors(len(images), factor, generator), adjust_brightness)


def gamma(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Raise values over 255 to a power of 1/factor to factor (log-uniform): ``adjust_gamma``."""
    from torchvision.transforms.v2.functional import adjust_gamma

    return _each(images, _factors(len(images), factor, generator), adjust_gamma)


def sharpness(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Blend each image with its smoothed self, 1/factor to factor (log-uniform): ``adjust_sharpness``."""
    from torchvision.transforms.v2.functional import adjust_sharpness

    return _each(images, _factors(len(images), factor, generator), adjust_sharpness)


def blur(images: Tensor, generator: torch.Generator, sigma: float) -> Tensor:
    """Blur each image by a Gaussian of up to ``sigma`` pixels, reaching 3 sigma: ``gaussian_blur``."""
    from torchvision.transforms.v2.functional import gaussian_blur

    side = min(images.shape[-2:])
    reach = min(math.ceil(3 * sigma), side - 1)  # a border that reflects is as wide as the image less one
    if reach < 1:
        return images
    sigmas = sigma * (1 - torch.rand(len(images), generator=generator))  # above 0
    return _each(images, sigmas, lambda image, each: gaussian_blur(image, [2 * reach + 1] * 2, [each] * 2))


@dataclass(frozen=True)
class Kind:
    """A kind of augmentation. option: the name of how far it goes, "" where there is no more or less; usual:
    its default. low (excluded) and high: its bounds. probability: of an image to be changed, by default."""

    change: Change
    option: str = ""
    usual: float = 0.0
    low: float = 0.0
    high: float = 0.0
    probability: float = 1.0


AUGMENTATIONS: dict[str, Kind] = {
    "flip": Kind(flip, probability=0.5),
    "vertical-flip": Kind(vertical_flip, probability=0.5),
    "shift": Kind(shift, "share", 1 / 8, 0, 0.5),
    "rotate": Kind(rotate, "degrees", 15.0, 0, 180),
    "zoom": Kind(zoom, "factor", 1.2, 1, 4),
    "contrast": Kind(contrast, "factor", 1.2, 1, 4),
    "brightness": Kind(brightness, "factor", 1.2, 1, 4),
    "gamma": Kind(gamma, "factor", 1.2, 1, 4),
    "sharpness": Kind(sharpness, "factor", 1.5, 1, 4),
    "blur": Kind(blur, "sigma", 1.0, 0, 20),
}


class Augmentation(BaseModel):
    """One augmentation with options of its own.

    probability: of each image to be changed. share: of an image's side. degrees: either way. factor: the
    largest, and the inverse of the smallest. sigma: in pixels. What is not set is as usual for the name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    probability: float | None = Field(default=None, gt=0, le=1)
    share: float | None = None
    degrees: float | None = None
    factor: float | None = None
    sigma: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Augmentation:
        kind = AUGMENTATIONS[known(self.name)]
        for option in self.model_fields_set - {"name", "probability"}:
            if option != kind.option:
                takes = f"{kind.option} and probability" if kind.option else "probability alone"
                raise ValueError(f"'{self.name}' has no option {option}: it takes {takes}")
        if not kind.option:
            return self
        if not (kind.low < self.amount <= kind.high):
            raise ValueError(
                f"{kind.option} of '{self.name}' is {self.amount:g}: set it above {kind.low:g} and up to "
                f"{kind.high:g}"
            )
        return self

    @model_serializer(mode="wrap")
    def _where_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value is not None}

    @property
    def amount(self) -> float:
        """How far it goes."""
        kind = AUGMENTATIONS[self.name]
        given = getattr(self, kind.option) if kind.option else None
        return kind.usual if given is None else float(given)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images changed at random, each with a draw of its own."""
        kind = AUGMENTATIONS[self.name]
        probability = kind.probability if self.probability is None else self.probability
        if probability == 1:
            return kind.change(images, generator, self.amount)
        chosen = torch.rand(len(images), generator=generator) < probability
        return torch.where(_per_image(chosen, images), kind.change(images, generator, self.amount), images)


def known(name: str) -> str:
    """Return a name of ``AUGMENTATIONS``; ValueError with the nearest name for any other."""
    if name not in AUGMENTATIONS:
        raise ValueError(str(unknown("augmentation", name, AUGMENTATIONS)))
    return name


def augment(images: Tensor, entries: Iterable[str | Augmentation], generator: torch.Generator) -> Tensor:
    """Apply augmentations, some by their names alone, one after the other."""
    for entry in entries:
        images = (Augmentation(name=entry) if isinstance(entry, str) else entry)(images, generator)
    return images


def _sampled(images: Tensor, maps: Tensor) -> Tensor:
    """Return images through affine maps of their own, N x 2 x 3, bilinear, reflecting at borders."""
    grid = affine_grid(maps.to(images.device), list(images.shape), align_corners=False)
    found = grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return found.round_().clamp_(0, 255).to(images.dtype)


def _each(images: Tensor, values: Tensor, change: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Change every image by a value of its own."""
    pairs = zip(images.split(1), values.tolist(), strict=True)
    return torch.cat([change(image, value) for image, value in pairs])


def _factors(count: int, most: float, generator: torch.Generator) -> Tensor:
    return most ** (2 * torch.rand(count, generator=generator) - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).view(-1, 1, 1, 1)


def _offsets(count: int, side: int, share: float, generator: torch.Generator) -> Tensor:
    furthest = min(max(1, int(side * share)), side - 1)
    return torch.randint(-furthest, furthest + 1, (count,), generator=generator)


def _reflected(offsets: Tensor, side: int) -> Tensor:
    """Source index (N x side) of each pixel along one axis: i + offset, mirrored about the border pixels."""
    index = (torch.arange(side) + offsets.view(-1, 1)).abs()
    return (side - 1) - ((side - 1) - index).abs()
