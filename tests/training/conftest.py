from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import seeded


def _small_network() -> nn.Module:
    with seeded(0, "test"):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8, 2),
        )


@pytest.fixture
def small_network() -> nn.Module:
    """Two convolutions with batch norm, dropout, two classes; always the same weights."""
    return _small_network()


@pytest.fixture
def make_network() -> object:
    """A maker of ``small_network``, for tests that compare several."""
    return _small_network


@pytest.fixture
def dark_and_bright() -> tuple[Tensor, Tensor]:
    """Forty 6 x 6 images: class 0 has values below 100, class 1 above 155."""
    draws = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 2
    noise = torch.randint(0, 100, (40, 1, 6, 6), generator=draws)
    return (noise + 156 * labels.view(-1, 1, 1, 1)).clamp(max=255).to(torch.uint8), labels
