"""ResNet-18 for small images (He et al., 2016): a 3x3 stem with stride 1 and no max-pool."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from fedmerge.models.layers import initialise_convs, norm2d


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
    """Four stages of two basic blocks with 64, 128, 256 and 512 channels."""

    def __init__(self, in_channels: int, n_classes: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.norm1 = norm2d(norm, 64)
        self.layer1 = _stage(64, 64, 1, norm)
        self.layer2 = _stage(64, 128, 2, norm)
        self.layer3 = _stage(128, 256, 2, norm)
        self.layer4 = _stage(256, 512, 2, norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, n_classes)
        initialise_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits N x n_classes of images N x C x H x W."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.head(self.pool(x).flatten(1))


def resnet18(
    in_channels: int, n_classes: int, image_size: int, *, norm: Literal["batch", "group"] = "batch"
) -> nn.Module:
    """ResNet-18 with the small-image stem, for images of any size."""
    return ResNet18(in_channels, n_classes, norm)


def _stage(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride, norm), BasicBlock(outputs, outputs, 1, norm))
