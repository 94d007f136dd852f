"""Whether a device can be used on this machine."""

from __future__ import annotations

import torch

from fedmerge.errors import FedMergeError, short


def checked_device(name: str) -> str:
    """Return the name of a device on which numbers can be kept. Raises FedMergeError for another."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise FedMergeError(
            f"device '{short(name)}' cannot be used on this machine: choose 'cpu'"
            + (" or 'cuda'." if torch.cuda.is_available() else " (there is no CUDA device).")
        ) from None
    return name
