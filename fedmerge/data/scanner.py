"""Seeded appearance shifts: the same anatomy seen by another scanner, stain or camera.

A shift takes images as floats in [0, 1] (N x C x H x W), a severity 1-5 and a generator, and returns images
that the caller clips to [0, 1]. What a shift draws is a trait of the site (a direction, a field) or noise,
and the draws do not depend on the severity, so that a higher severity is more of the same.
In the spirit of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), for any size from 8 px up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.nn import functional

from fedmerge.data.images.stored import StoredImages, pieces_of
from fedmerge.errors import FedMergeError, unknown
from fedmerge.seeding import generator

Shift = Callable[[Tensor, int, Generator], Tensor]


def apply(images: Tensor, appearances: Sequence[Appearance], seed: int, site: str) -> Tensor:
    """Images as the site's scanner shows them: its appearances one after the other.

    images: uint8 N x C x H x W; returned likewise. The same (seed, site, appearances) give the same result.
    Raises ``FedMergeError`` for images of another type, and a tint of grey ones.
    """
    check_pixels(images)
    if not appearances or not len(images):
        return images
    if isinstance(images, StoredImages):
        return torch.cat(list(seen(images, appearances, seed, site)))
    rngs = [_rng(look, position, seed, site) for position, look in enumerate(appearances)]
    return _shown(images, appearances, rngs, site)


def check_pixels(images: Tensor) -> None:
    """Raise FedMergeError for images that are not uint8."""
    if images.dtype != torch.uint8:
        raise FedMergeError(f"a scanner takes images of uint8, 0 to 255, and these are {images.dtype}.")


def seen(images: StoredImages, appearances: Sequence[Appearance], seed: int, site: str) -> Iterator[Tensor]:
    """Yield what ``apply`` returns, some images at a time, so that no more are in memory."""
    drawing = {p: _rng(look, p, seed, site) for p, look in enumerate(appearances) if look.kind in BY_PIXEL}
    for piece in pieces_of(images):  # traits of a scanner are drawn anew for every piece, and so the same
        rngs = [drawing.get(p) or _rng(look, p, seed, site) for p, look in enumerate(appearances)]
        yield _shown(piece.read(), appearances, rngs, site)


def _rng(look: Appearance, position: int, seed: int, site: str) -> Generator:
    return generator(seed, f"scanner-{position}-{look.kind}", site=site)


def _shown(images: Tensor, appearances: Sequence[Appearance], rngs: Sequence[Generator], site: str) -> Tensor:
    shifted = images.float() / 255
    for look, rng in zip(appearances, rngs, strict=True):
        try:
            shifted = SHIFTS[look.kind](shifted, look.severity, rng).clamp(0, 1)
        except FedMergeError as error:
            raise FedMergeError(f"site '{site}': {error}") from None
    return (shifted * 255).round().to(torch.uint8)


def brightness(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """x + b or x - b (the site's sign), b = 0.06 severity."""
    return images + _sign(rng) * 0.06 * severity


def contrast(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """m + (1 - 0.14 severity) (x - m), m the image's own mean: flatter."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (1 - 0.14 * severity) * (images - mean)


def gamma(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """x ** g, g = 1.2 ** severity or its inverse (the site's sign)."""
    return images ** (1.2 ** (severity * _sign(rng)))


def blur(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """Gaussian of sigma = 0.2 + 0.012 severity * side pixels; edges are reflected."""
    side = min(images.shape[2:])
    sigma = 0.2 + 0.012 * severity * side
    radius = min(math.ceil(3 * sigma), side - 1)
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1, 1, 1)
    channels = images.shape[1]
    padded = functional.pad(images, (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel, groups=channels)
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=channels)


def noise(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """x + 0.04 severity n, n standard normal, independent for every pixel and channel."""
    return images + 0.04 * severity * torch.randn(images.shape, generator=rng)


def bias_field(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """x (1 + 0.15 severity f), f a quadratic of the position with max |f| = 1: uneven illumination."""
    v, u = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in images.shape[2:]), indexing="ij")
    weights = torch.randn(5, generator=rng)
    field = sum(w * term for w, term in zip(weights, (u, v, u * u, u * v, v * v), strict=True))
    return images * (1 + 0.15 * severity * field / torch.as_tensor(field).abs().max())


def pixelate(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """Coarser pixels: images -> blocks of b -> blocks of 2 b, at 0.4 severity of these two steps.

    b = max(2, side / 14) pixels. Between steps the two are mixed, and blocks nest, so that each severity
    loses more than the one before.
    """
    block = max(2, round(min(images.shape[2:]) / 14))
    levels = (images, _blocks(images, block), _blocks(images, 2 * block))
    step = min(int(0.4 * severity), 1)
    return torch.lerp(levels[step], levels[step + 1], 0.4 * severity - step)


def tint(images: Tensor, severity: int, rng: Generator) -> Tensor:
    """x_c (1 + 0.12 severity d_c), d a direction with sum 0 and max |d| = 1: stain or white balance; RGB."""
    if images.shape[1] != 3:
        raise FedMergeError("a tint needs RGB images and these are grey: set channels: 3, or take it out.")
    direction = torch.randn(3, generator=rng)
    direction = direction - direction.mean()
    direction = (direction / direction.abs().max()).view(1, 3, 1, 1)
    return images * (1 + 0.12 * severity * direction)


SHIFTS: dict[str, Shift] = {
    "brightness": brightness,
    "contrast": contrast,
    "gamma": gamma,
    "blur": blur,
    "noise": noise,
    "bias-field": bias_field,
    "pixelate": pixelate,
    "tint": tint,
}
BY_PIXEL = ("noise",)
"""Kinds that draw for every pixel; the others draw a trait of the scanner."""


def _blocks(images: Tensor, size: int) -> Tensor:
    """Every block of size x size pixels at its mean; blocks at the lower and right edge may be cut."""
    mean = functional.avg_pool2d(images, size, ceil_mode=True)
    mean = mean.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
    return mean[:, :, : images.shape[2], : images.shape[3]]


def _sign(rng: Generator) -> int:
    return 1 if torch.rand((), generator=rng) < 0.5 else -1


def _known(kind: str) -> str:
    if kind not in SHIFTS:
        raise ValueError(str(unknown("scanner shift", kind, SHIFTS)))
    return kind


ShiftName = Annotated[str, AfterValidator(_known)]
"""A kind of shift in a configuration; another name is a sentence with the nearest one."""


class Appearance(BaseModel):
    """One shift of a site's scanner: which kind, and how severe from 1 to 5."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ShiftName
    severity: int = Field(ge=1, le=5)
