"""What several networks share: the choice of norm, and the initialisation of convolutions."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from fedmerge.errors import FedMergeError

Norm = Literal["batch", "group", "none"]


def norm2d(kind: str, channels: int) -> nn.Module:
    """Batch norm, group norm with at most 8 groups that divide ``channels``, or nothing."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.Identity()


def initialise_convs(network: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (He et al., 2015; fan-out) with zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_positive(network: str, **options: int) -> None:
    """Raise FedMergeError for the first option that is below one."""
    for name, value in options.items():
        if value < 1:
            raise FedMergeError(f"model '{network}', option '{name}' is {value}: it must be at least 1.")


def check_rate(network: str, **options: float) -> None:
    """Raise FedMergeError for the first option that is not in [0, 1)."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise FedMergeError(f"model '{network}', option '{name}' is {value}: it must be in [0, 1).")
