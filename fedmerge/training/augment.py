"""Random changes of a batch of images, vectorised over the batch and done on its device.

Each takes uint8 images (N x C x H x W) and a CPU generator, so the draws do not depend on the device,
and returns images of the same shape and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedmerge.errors import unknown

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

MAX_DEGREES = 15.0
MAX_CHANGE = 1.2
"""The largest factor by which ``zoom`` and ``contrast`` change an image, and the inverse of the smallest."""


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(_per_image(chosen, images), images.flip(-1), images)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image on each axis by up to an eighth of its side, at least a pixel; reflect at borders."""
    count, channels, height, width = images.shape
    rows = _reflected(_offsets(count, height, generator), height).to(images.device)
    columns = _reflected(_offsets(count, width, generator), width).to(images.device)
    moved = images.gather(2, rows.view(count, 1, height, 1).expand(count, channels, height, width))
    return moved.gather(3, columns.view(count, 1, 1, width).expand(count, channels, height, width))


def rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each image about its centre by up to 15 degrees either way, bilinear, reflecting at borders."""
    angles = (2 * torch.rand(len(images), generator=generator) - 1) * math.radians(MAX_DEGREES)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    aspect = images.shape[-2] / images.shape[-1]
    turns = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], dim=1).view(-1, 2, 3)
    grid = affine_grid(turns.to(images.device), list(images.shape), align_corners=False)
    turned = grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return turned.round_().clamp_(0, 255).to(images.dtype)


def zoom(images: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each image about its centre by 1/1.2 to 1.2 (log-uniform), bilinear, reflecting at borders."""
    scales, zero = 1 / _factors(len(images), generator), torch.zeros(len(images))
    grow = torch.stack([scales, zero, zero, zero, scales, zero], dim=1).view(-1, 2, 3)
    grid = affine_grid(grow.to(images.device), list(images.shape), align_corners=False)
    scaled = grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return scaled.round_().clamp_(0, 255).to(images.dtype)


def contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each image's values about its own mean by 1/1.2 to 1.2 (log-uniform); the mean stays."""
    factors = _per_image(_factors(len(images), generator), images)
    values = images.float()
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + factors * (values - mean)).round_().clamp_(0, 255).to(images.dtype)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "shift": shift,
    "rotate": rotate,
    "zoom": zoom,
    "contrast": contrast,
}


def augmentation(name: str) -> Augmentation:
    """The augmentation of that name; FedMergeError with the nearest name where there is none."""
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def augment(images: Tensor, names: Iterable[str], generator: torch.Generator) -> Tensor:
    """Apply the named augmentations one after the other."""
    for name in names:
        images = augmentation(name)(images, generator)
    return images


def _factors(count: int, generator: torch.Generator) -> Tensor:
    return MAX_CHANGE ** (2 * torch.rand(count, generator=generator) - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).view(-1, 1, 1, 1)


def _offsets(count: int, side: int, generator: torch.Generator) -> Tensor:
    furthest = max(1, side // 8) if side > 1 else 0
    return torch.randint(-furthest, furthest + 1, (count,), generator=generator)


def _reflected(offsets: Tensor, side: int) -> Tensor:
    """Source index (N x side) of each pixel along one axis: i + offset, mirrored about the border pixels."""
    index = (torch.arange(side) + offsets.view(-1, 1)).abs()
    return (side - 1) - ((side - 1) - index).abs()
