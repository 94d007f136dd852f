"""Augmented views of images: shifted, and mirrored left to right."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shifted(images: Tensor, shift: float, flip: bool, draws: torch.Generator) -> Tensor:
    """Return one view of each image, A x C x H x W.

    Each is moved by up to ``shift`` of its shorter side (at least one pixel where shift is above 0; the
    border is repeated) and, with ``flip``, mirrored at even odds.
    """
    height, width = images.shape[-2:]
    reach = max(1, round(shift * min(height, width))) if shift > 0 else 0
    corners = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=draws).tolist()
    mirrored = (torch.rand(len(images), generator=draws) < 0.5).tolist()
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    views = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    flips = [flip and side for side in mirrored]
    return torch.stack([view.flip(-1) if side else view for view, side in zip(views, flips, strict=True)])
