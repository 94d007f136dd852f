"""Bring an image to the cohort's square: crop its middle, pad it with black, or stretch it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from fedmerge.data.images.images import resize
from fedmerge.data.reading import Fit


def fitted(images: Tensor, size: int | None, fit: Fit | None) -> Tensor:
    """Return uint8 N x C x H x W as size x size (None: as they are), after ``fit`` made them square.

    crop: the middle, min(H, W) on each side. pad: black on both sides up to max(H, W). Where the two differ
    by an odd number, the smaller part is above or left. stretch and None: the aspect ratio is not kept.
    """
    height, width = images.shape[2:]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[:, :, top : top + side, left : left + side]
    elif fit == "pad" and height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        images = pad(images, (left, side - width - left, top, side - height - top))
    return resize(images, size) if size else images.contiguous()
