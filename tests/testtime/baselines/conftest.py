from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


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
