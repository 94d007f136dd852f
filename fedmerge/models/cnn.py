"""A small convolutional network: the quickest thing that learns small images."""

from __future__ import annotations

from torch import Tensor, nn

from fedmerge.models.layers import Norm, check_positive, check_rate, initialise_convs, norm2d
from fedmerge.models.pooling import MaxPool2d


class SmallCnn(nn.Module):
    """Three blocks conv 3x3, norm, ReLU (the first two with a 2x2 max-pool), global mean, linear head."""

    def __init__(self, in_channels: int, n_classes: int, width: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, width, norm),
            MaxPool2d(2),
            *_block(width, 2 * width, norm),
            MaxPool2d(2),
            *_block(2 * width, 4 * width, norm),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(4 * width, n_classes)
        initialise_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits N x n_classes of images N x C x H x W."""
        return self.head(self.features(x))


def small_cnn(
    in_channels: int,
    n_classes: int,
    image_size: int,
    *,
    width: int = 32,
    norm: Norm = "batch",
    dropout: float = 0.0,
) -> nn.Module:
    """Small CNN with ``width``, 2 ``width`` and 4 ``width`` channels, for images from 4 px up."""
    check_positive("small-cnn", width=width)
    check_rate("small-cnn", dropout=dropout)
    return SmallCnn(in_channels, n_classes, width, norm, dropout)


def _block(inputs: int, outputs: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
    return [conv, norm2d(norm, outputs), nn.ReLU()]
