"""A file of decoded images, mapped into memory; what was read is given back, so that memory stays flat."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmerge.data.facts import Facts
from fedmerge.errors import FedMergeError

HELD = 16 * 2**20
"""Bytes that are read before the pages that hold them are given back to the system, which maps many more
around each: after 257 MB of scattered reads, 4.6 GB were resident."""


class Mapped:
    """Images of a file: uint8 N x C x H x W, one after the other, and their facts.

    They cannot be written. Pages that were read stay in the system's cache of files, not in this process.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], facts: Facts) -> None:
        """Raises FedMergeError for a file of another length, OSError for one that cannot be read."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            length, wanted = os.fstat(descriptor).st_size, int(np.prod(shape, dtype=np.int64))
            if length != wanted:
                raise FedMergeError(
                    f"{path} is damaged: it has {length:,} bytes and not {wanted:,}. "
                    "`fedmerge cache clean` removes it."
                )
            self._map = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images = torch.from_numpy(np.frombuffer(self._map, dtype=np.uint8).reshape(shape))
        self.facts = facts
        self._read = 0

    def __len__(self) -> int:
        return len(self.images)

    def take(self, at: Tensor) -> Tensor:
        """Return copies of the images at ``at``, int64."""
        found = self.images[at]
        self._read += found.numel()
        if self._read > HELD:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        return found
