"""Hand images to a device batch by batch: from memory, or read ahead from the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

AHEAD = 2
"""Batches that are read while the device computes with one."""


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """Return images for training to take batches from: copied to the device whole; stored, as they are."""
    return images if are_stored(images) else images.to(device)


def are_stored(images: Tensor) -> bool:
    """Whether images are on the disk until they are read (``fedmerge.data.images.stored.StoredImages``)."""
    return hasattr(images, "read")


def batches(
    images: Tensor, indices: Iterable[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each index (integers, on the CPU) with its images on the device, uint8 n x C x H x W.

    Stored images for a GPU are read ahead by a thread into pinned memory, and copied while the GPU computes.
    The batches are the same, to the bit and in order, however they come.
    """
    read: Callable[[Tensor], Tensor] | None = getattr(images, "read", None)
    if read is not None and device.type == "cuda":
        for index, batch in read_ahead(lambda index: read(index).pin_memory(), indices):
            yield index, batch.to(device, non_blocking=True)
    else:
        for index in indices:
            yield index, images[index.to(images.device)].to(device, non_blocking=True)


def read_ahead(
    read: Callable[[Tensor], Tensor], indices: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each index with what ``read`` gives for it, in order; a thread reads ``AHEAD`` more meanwhile.

    An error of ``read`` is raised where its batch would come. The thread ends with the iterator.
    """
    waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="images") as pool:
        try:
            for index in indices:
                waiting.append((index, pool.submit(read, index)))
                if len(waiting) > AHEAD:
                    first, found = waiting.popleft()
                    yield first, found.result()
            while waiting:
                first, found = waiting.popleft()
                yield first, found.result()
        finally:
            for _, each in waiting:
                each.cancel()
