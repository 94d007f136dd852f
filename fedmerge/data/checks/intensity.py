"""Statistics of the intensities of images, image by image, read in pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

PIECE, SIDE = 256, 16
BLACK = 8


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of N images: mean and standard deviation, the share of pixels below 8 (each N), and the mean image,
    16 x 16."""

    mean: np.ndarray
    deviation: np.ndarray
    dark: np.ndarray
    picture: np.ndarray


def statistics_of(images: Tensor) -> Statistics:
    """Return the statistics of images, uint8 N x C x H x W."""
    means, deviations, dark, total = [], [], [], np.zeros((SIDE, SIDE))
    for piece in images.split(PIECE):
        pixels = piece.float()
        rows = pixels.flatten(1)
        means.append(rows.mean(1).numpy())
        deviations.append(rows.std(1, correction=0).numpy())
        dark.append((rows < BLACK).float().mean(1).numpy())
        total += adaptive_avg_pool2d(pixels.mean(1, keepdim=True), SIDE).double().sum((0, 1)).numpy()
    picture = total / max(len(images), 1)
    return Statistics(np.concatenate(means), np.concatenate(deviations), np.concatenate(dark), picture)


def correlations(images: Tensor, picture: np.ndarray) -> np.ndarray:
    """Return how much each image is like a picture, 16 x 16: N correlations of light and dark, -1 to 1.

    images: uint8 N x C x H x W. An image, or picture, of one value is like nothing: 0.
    """
    wanted = torch.from_numpy(picture - picture.mean()).reshape(-1)
    found = []
    for piece in images.split(PIECE):
        rows = adaptive_avg_pool2d(piece.float().mean(1, keepdim=True), SIDE).double().flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        length = rows.norm(dim=1) * wanted.norm()
        found.append(torch.where(length > 0, rows @ wanted / length, torch.zeros_like(length)).numpy())
    return np.concatenate(found)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney); 0.5 without both classes."""
    from scipy.stats import rankdata  # slow to import, and a run does without

    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return 0.5
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))
