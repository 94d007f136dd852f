"""Check a batch, and raise a clear error where a network cannot take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError


def check_batch(batch: Tensor) -> None:
    """Raise FedMergeError unless ``batch`` is a tensor of real images N x C x H x W, N at least 1."""
    if not isinstance(batch, Tensor):
        raise FedMergeError(
            f"a batch must be a torch tensor of images N x C x H x W, not a {type(batch).__name__}: convert "
            "it and normalise it as the models were trained."
        )
    if batch.ndim != 4 or len(batch) == 0:
        raise FedMergeError(
            "a batch must be images N x C x H x W with N of at least 1; "
            f"this one has shape {tuple(batch.shape)}."
        )
    if not batch.is_floating_point():
        raise FedMergeError(f"a batch must be floating-point images, normalised, not {batch.dtype}.")


@contextmanager
def taking(batch: Tensor, name: str) -> Iterator[None]:
    """Turn PyTorch's error for an unfit batch into a FedMergeError; ``name``: the model that refuses it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).split("\n", 1)[0].rstrip(". ")
        raise FedMergeError(
            f"{name} cannot take a batch of shape {tuple(batch.shape)} (N x C x H x W), "
            f"{batch.dtype}, on {batch.device}: {reason}; give images as the models were trained on."
        ) from None
