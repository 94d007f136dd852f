"""A file of decoded images, read image by image: what was not asked for is not in this process's memory."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmerge.data.images.facts import Facts
from fedmerge.errors import FedMergeError


class PixelFile:
    """Images of a file: uint8 N x C x H x W, one after the other, and their facts.

    Images are read at their place (``pread``), so processes that were forked may share it. A mapping into
    memory would do with less code, but counts the pages around each image, too: several GB after some
    thousand scattered images.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], facts: Facts) -> None:
        """Raises FedMergeError for a file of another length, OSError for one that cannot be read."""
        self.path, self.shape, self.facts = path, shape, facts
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        length, wanted = os.fstat(self._file).st_size, int(np.prod(shape, dtype=np.int64))
        if length != wanted:
            raise FedMergeError(
                f"{path} is damaged: it has {length:,} bytes and not {wanted:,}. "
                "`fedmerge cache clean` removes it."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, at: Tensor) -> Tensor:
        """Return copies of the images at ``at``, int64 from 0.

        Raises IndexError for one that is not there, FedMergeError where the file was cut short meanwhile.
        """
        places = at.tolist()
        if places and not 0 <= min(places) <= max(places) < len(self):
            raise IndexError(f"{self.path} has images 0 to {len(self) - 1}")
        out = np.empty((len(places), *self.shape[1:]), dtype=np.uint8)
        size = int(np.prod(self.shape[1:], dtype=np.int64))
        for row, place in zip(out.reshape(len(places), size), places, strict=True):
            self._read(row.data, place * size)
        return torch.from_numpy(out)

    def _read(self, into: memoryview, start: int) -> None:
        done = 0
        while done < len(into):
            got = os.preadv(self._file, [into[done:]], start + done)
            if got == 0:
                raise FedMergeError(f"{self.path} was cut short while it was in use: do it again.")
            done += got
