"""Images that are on disk until they are needed, and look like a Tensor.

Code that takes images as a Tensor works as it is: ``images[index]`` reads those images, ``images[a:b]`` and
``images.split(n)`` read nothing yet, and any other operation reads what it needs and goes on with an ordinary
Tensor. The bits are those of the same images in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedmerge.data.images.facts import Facts, facts_of, facts_together
from fedmerge.data.images.pixels import PixelFile

Part = PixelFile | Tensor
aten = torch.ops.aten
AT_ONCE = 2**20
"""Values of images that are in memory at a time where all are gone through."""
FIXED = "images of a cohort cannot be changed: make a copy of them, images.clone()"


class StoredImages(Tensor):
    """N images of one shape in one or more ``parts``: image i is number ``at[i]`` of part ``which[i]``.

    parts: files, or Tensors uint8 in memory. It has no storage of its own; it cannot be written.
    """

    parts: tuple[Part, ...]
    which: Tensor
    at: Tensor

    @staticmethod
    def __new__(cls, parts: Sequence[Part], which: Tensor, at: Tensor) -> StoredImages:
        made = Tensor._make_wrapper_subclass(cls, (len(at), *parts[0].shape[1:]), dtype=torch.uint8)
        made.parts, made.which, made.at = tuple(parts), which, at
        return made

    def pick(self, index: Tensor) -> StoredImages:
        """Return the images at ``index`` (integers, or a mask); nothing is read."""
        return StoredImages(self.parts, self.which[index], self.at[index])

    def read(self, index: Tensor | None = None) -> Tensor:
        """Return the images at ``index`` (all), as an ordinary Tensor of their own."""
        chosen = self if index is None else self.pick(index)
        if len(self.parts) == 1:
            return _take(self.parts[0], chosen.at)
        out = torch.empty(chosen.shape, dtype=torch.uint8)
        for number in torch.unique(chosen.which).tolist():
            here = chosen.which == number
            out[here] = _take(self.parts[number], chosen.at[here])
        return out

    def facts(self) -> Facts:
        """Return the facts of the images; those of files were kept when they were made."""
        found = [part.facts if isinstance(part, PixelFile) else facts_of(part) for part in self.parts]
        which, at = self.which.numpy(), self.at.numpy()
        starts = np.cumsum([0, *(len(each.digests) for each in found)])[:-1]
        return facts_together(found).at(starts[which] + at)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Return all images as an array."""
        return self.read().numpy(force=force)

    def tolist(self) -> Any:
        """Return all images as lists."""
        return self.read().tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        raise RuntimeError(FIXED)

    def __deepcopy__(self, memo: Any) -> StoredImages:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.read().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StoredImages({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer what needs no image without reading any; read for everything else."""
        kwargs = kwargs or {}
        if (lazy := LAZY.get(func)) is not None:
            answer = lazy(*args, **kwargs)
            if answer is not NotImplemented:
                return answer
        if func._schema.is_mutable and any(isinstance(each, StoredImages) for each in args[:1]):
            raise RuntimeError(FIXED)
        return func(*tree_map(_plain, tuple(args)), **tree_map(_plain, kwargs))


def stored(part: Part) -> StoredImages:
    """Return all images of one part."""
    n = len(part)
    return StoredImages([part], torch.zeros(n, dtype=torch.int16), torch.arange(n))


def pieces_of(images: StoredImages) -> Iterator[StoredImages]:
    """Yield images some at a time, so that a piece in float32 has about 4 MB; nothing is read.

    Their number is a multiple of 16 (but the last): a generator draws 16 numbers at once, so it draws the
    same for one piece after the other as for all at once.
    """
    each = max(1, math.prod(images.shape[1:]))
    size = max(16, AT_ONCE // each // 16 * 16)
    return (images.pick(index) for index in torch.arange(len(images)).split(size))


def join(images: Sequence[Tensor]) -> StoredImages:
    """Return images, some of them stored, one after the other; nothing is read."""
    parts: list[Part] = []
    numbers: dict[int, int] = {}
    which, at = [], []
    for each in images:
        held = each if isinstance(each, StoredImages) else stored(each)
        lookup = []
        for part in held.parts:
            if id(part) not in numbers:
                numbers[id(part)] = len(parts)
                parts.append(part)
            lookup.append(numbers[id(part)])
        which.append(torch.tensor(lookup, dtype=torch.int16)[held.which.long()])
        at.append(held.at)
    return StoredImages(parts, torch.cat(which), torch.cat(at))


def _take(part: Part, at: Tensor) -> Tensor:
    return part.take(at) if isinstance(part, PixelFile) else part[at]


def _plain(value: Any) -> Any:
    return value.read() if isinstance(value, StoredImages) else value


def _index(images: StoredImages, indices: Sequence[Tensor | None]) -> Any:
    if len(indices) != 1 or indices[0] is None or indices[0].ndim != 1:
        return NotImplemented
    return images.read(indices[0].cpu())


def _select(images: StoredImages, dim: int, index: int) -> Any:
    return NotImplemented if dim % images.ndim else images.read(torch.tensor([int(index)]))[0]


def _slice(
    images: StoredImages, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    if dim % images.ndim:
        return NotImplemented
    return images.pick(torch.arange(len(images.at))[slice(start, end, step)])


def _split(images: StoredImages, size: int, dim: int = 0) -> Any:
    if dim % images.ndim:
        return NotImplemented
    return [images.pick(piece) for piece in torch.arange(len(images.at)).split(size)]


def _split_sizes(images: StoredImages, sizes: Sequence[int], dim: int = 0) -> Any:
    if dim % images.ndim:
        return NotImplemented
    return [images.pick(piece) for piece in torch.arange(len(images.at)).split(list(sizes))]


def _cat(images: Sequence[Tensor], dim: int = 0) -> Any:
    alike = {(each.dtype, each.shape[1:], each.device) for each in images if each.ndim == 4}
    return NotImplemented if dim or len(alike) > 1 or any(each.ndim != 4 for each in images) else join(images)


def _same(images: StoredImages) -> StoredImages:
    return images


LAZY: dict[Any, Callable[..., Any]] = {
    aten.index.Tensor: _index,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split_sizes,
    aten.cat.default: _cat,
    aten.detach.default: _same,
    aten.alias.default: _same,
}
