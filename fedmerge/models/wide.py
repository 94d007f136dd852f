"""The precision in which numbers of several networks are combined: float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
"""Precisions that a network may have inside, and in which nothing is added up outside it."""


def wide(value: Tensor) -> Tensor:
    """``value`` in float32 where it is float16 or bfloat16; any other tensor as it is."""
    return value.float() if value.dtype in HALVES else value


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of ``wide`` of a tensor of ``dtype``."""
    return torch.float32 if dtype in HALVES else dtype
