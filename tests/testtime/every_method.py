"""Every test-time method, those that merge, and a network with something of its own around it."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from fedmerge.testtime import TESTTIME

NAMES = [method.name for method in TESTTIME]
MERGING = [name for name in NAMES if name not in ("entropy-weighted", "contrast")]
merging = pytest.mark.parametrize("name", MERGING)
each = pytest.mark.parametrize("name", NAMES)


class Around(nn.Module):
    """A network with something of its own around it, which ``before`` and ``after`` use."""

    def __init__(self, net: nn.Module, **attributes: Any) -> None:
        super().__init__()
        self.net = net
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=name.startswith("kept"))
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)
