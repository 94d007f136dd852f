"""Logits of a network for a stack of images, in batches and in order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.feeding import batches
from fedmerge.models.inputs import only
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

AT_ONCE = 256
"""Images of a batch, where nothing else is asked for."""


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    normalise: Callable[[Tensor], Tensor],
    *,
    batch_size: int = AT_ONCE,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the logits (float32, N x n_classes, on the CPU) of uint8 ``images`` (N x C x H x W).

    The model is moved to ``device``, put into eval mode, and given back with every module's own mode
    restored. Batches go to the device as uint8 and are normalised there. ``progress(done, total)`` counts
    images. Raises FedMergeError if there are no images or the batch size is below one.
    """
    total = len(images)
    if total == 0:
        raise FedMergeError("there are no images to predict: give at least one.")
    if batch_size < 1:
        raise FedMergeError(f"the batch size is {batch_size}: it must be at least 1.")
    model.to(device)
    logits: list[Tensor] = []
    with evaluating(model):
        done = 0
        for part, seen in batches(images, torch.arange(total).split(batch_size), torch.device(device)):
            logits.append(logits_of(model(only(normalise, part)(seen)), model).float())
            done += len(part)
            if progress is not None:
                progress(done, total)
    return torch.cat(logits).cpu()
