from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import generator, seeded


class SmallNet(nn.Module):
    """A convolution with batch norm and dropout, and a linear head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))


def small_net(seed: int) -> SmallNet:
    """A net whose weights and batch-norm statistics are all drawn."""
    with seeded(seed, "test"), torch.no_grad():
        model = SmallNet()
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_()
    return model.eval()


@pytest.fixture
def models() -> list[SmallNet]:
    return [small_net(seed) for seed in range(3)]


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(8, 3, 7, 7, generator=generator(0, "test"))


class Linear2(nn.Module):
    """A net to calculate by hand: logits = head (encoder x), multiples of I, for images of 2 pixels."""

    def __init__(self, encoder: float, head: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.encoder.weight.data = encoder * torch.eye(2)
        self.head.weight.data = head * torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.flatten(1)))


@pytest.fixture
def linear() -> Callable[[float, float], nn.Module]:
    return Linear2


@pytest.fixture
def pixels() -> Callable[..., Tensor]:
    """Images of two pixels, as two channels of size 1 x 1."""
    return lambda *images: torch.tensor(images)[:, :, None, None]


@pytest.fixture
def entropy_of_gap() -> Callable[[float], float]:
    """Entropy in nats of two classes whose logits differ by ``gap``."""

    def entropy(gap: float) -> float:
        p = 1 / (1 + math.exp(-gap))
        return -(p * math.log(p) + (1 - p) * math.log(1 - p))

    return entropy


@pytest.fixture
def drawn_norm() -> Callable[[], nn.BatchNorm2d]:
    """Batch norms of 3 channels, all alike, whose weights and statistics are drawn from [0.5, 1.5]."""

    def norm() -> nn.BatchNorm2d:
        with seeded(0, "test"), torch.no_grad():
            made = nn.BatchNorm2d(3)
            for value in (made.weight, made.bias, made.running_mean, made.running_var):
                value.uniform_(0.5, 1.5)
        return made.eval()

    return norm
