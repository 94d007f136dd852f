"""ResNet-18 for small images (He et al., 2016): a 3x3 stem with stride 1 and no max-pool."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fedmerge.models.layers import check_positive, check_rate, initialise_convs, norm2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = norm2d(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm2d(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm2d(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of ``outputs`` channels, smaller by ``stride``."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of two basic blocks with 1, 2, 4 and 8 times ``width`` channels."""

    def __init__(self, in_channels: int, n_classes: int, width: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm1 = norm2d(norm, width)
        self.layer1 = _stage(width, width, 1, norm)
        self.layer2 = _stage(width, 2 * width, 2, norm)
        self.layer3 = _stage(2 * width, 4 * width, 2, norm)
        self.layer4 = _stage(4 * width, 8 * width, 2, norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8 * width, n_classes)
        initialise_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits N x n_classes of images N x C x H x W."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.head(self.dropout(self.pool(x).flatten(1)))


def resnet18(
    in_channels: int,
    n_classes: int,
    image_size: int,
    *,
    width: int = 64,
    norm: Literal["batch", "group"] = "batch",
    dropout: float = 0.0,
) -> nn.Module:
    """ResNet-18 with the small-image stem, for images of any size; ``dropout`` is before the head.

    width: channels of the stem; 64 is He et al.'s.
    """
    check_positive("resnet18", width=width)
    check_rate("resnet18", dropout=dropout)
    return ResNet18(in_channels, n_classes, width, norm, dropout)


def _stage(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride, norm), BasicBlock(outputs, outputs, 1, norm))
