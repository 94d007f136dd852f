"""VGG for small images (Simonyan and Zisserman, 2015): the convolutions, then one linear head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from fedmerge.models.layers import check_positive, check_rate, initialise_convs, norm2d
from fedmerge.models.pooling import MaxPool2d

_CONVS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (1, 2, 4, 8, 8)


class Vgg(nn.Module):
    """Five groups of 3x3 convolutions, each group closed by a max-pool; global mean; linear head."""

    def __init__(
        self, in_channels: int, n_classes: int, depth: int, width: int, norm: str, dropout: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for convs, factor in zip(_CONVS[depth], _CHANNELS, strict=True):
            outputs = factor * width
            for _ in range(convs):
                conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
                layers += [conv, norm2d(norm, outputs), nn.ReLU()]
                inputs = outputs
            # Rounding up keeps one pixel alive: 28 px go 14, 7, 4, 2, 1; at 32 px nothing is rounded.
            layers.append(MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(inputs, n_classes)
        initialise_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits N x n_classes of images N x C x H x W."""
        return self.head(self.features(x))


def _builder(depth: int) -> Callable[..., nn.Module]:
    """Return the function that builds the VGG of a depth, with its options."""

    def build(
        in_channels: int,
        n_classes: int,
        image_size: int,
        *,
        width: int = 64,
        norm: Literal["batch", "none"] = "batch",
        dropout: float = 0.0,
    ) -> nn.Module:
        check_positive(build.__name__, width=width)
        check_rate(build.__name__, dropout=dropout)
        return Vgg(in_channels, n_classes, depth, width, norm, dropout)

    build.__name__ = build.__qualname__ = f"vgg{depth}"
    build.__doc__ = (
        f"VGG-{depth} ({sum(_CONVS[depth])} convolutions) with one linear head in place of three, for images "
        "of any size.\n\n    width: channels of the first convolution; 64 is Simonyan and Zisserman's."
    )
    return build


vgg11, vgg16, vgg19 = map(_builder, _CONVS)
