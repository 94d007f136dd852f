"""Small networks whose losses, angles and errors can be said beforehand, for the tests of analyses."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perceptron(seed: int, hidden: int = 24, bias: bool = True) -> nn.Module:
    """4 pixels, a hidden layer with ReLU, 3 classes; random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(4, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, 3, bias=bias)
        )
        with torch.no_grad():
            for value in net.parameters():
                value.mul_(2)
    return net.eval()


def convolutional(seed: int) -> nn.Module:
    """1 x 6 x 6 images, a convolution with batch norm, and a head of 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2.0)
    return net.eval()


def pixels(count: int = 60, side: int = 2) -> Tensor:
    """Images of one channel, drawn from a normal distribution."""
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))
