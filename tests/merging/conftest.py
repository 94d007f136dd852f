from __future__ import annotations

import pytest
import torch
from torch import nn


def linear_net(weight: list[list[float]], bias: list[float]) -> nn.Module:
    """Flatten, an encoder that passes its two inputs through, and a linear head with these numbers."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, len(bias)))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
        net[1].bias.zero_()
        net[2].weight.copy_(torch.tensor(weight))
        net[2].bias.copy_(torch.tensor(bias))
    return net.eval()


@pytest.fixture
def nets() -> list[nn.Module]:
    """Three heads over the same features."""
    return [
        linear_net([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]),
        linear_net([[3.0, 0.0], [0.0, 3.0]], [1.0, 0.0]),
        linear_net([[-1.0, 0.0], [0.0, -1.0]], [0.0, 5.0]),
    ]


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images of 1 x 1 x 2; the label is the larger pixel."""
    x = torch.tensor(
        [[1.0, 0.2], [0.1, 0.9], [2.0, 1.0], [0.0, 1.0], [0.7, 0.3], [0.4, 0.8], [1.0, 0.5], [0.2, 2.0]]
    )
    return x.view(8, 1, 1, 2), x.argmax(1)
