"""Disjoint sets of numbers, joined pair by pair: which neurons are one and the same."""

from __future__ import annotations

import torch
from torch import Tensor


class Unions:
    """Disjoint sets over 0, 1, 2, …; each set is named by its smallest member. -1 stands for no neuron."""

    def __init__(self) -> None:
        self._root = torch.empty(0, dtype=torch.int64)  # of each member, the name of its set

    def fresh(self, count: int) -> Tensor:
        """``count`` new sets of one member each, as int64 indices."""
        first = len(self._root)
        members = torch.arange(first, first + count)
        self._root = torch.cat([self._root, members])
        return members.clone()

    def join(self, left: Tensor, right: Tensor) -> None:
        """Make the sets of ``left[i]`` and ``right[i]`` one, for each i; pairs with -1 are passed over."""
        pairs = torch.stack(slim(left, right)).reshape(2, -1)
        pairs = pairs[:, pairs.min(0).values >= 0]
        while True:
            roots = self._root[pairs]
            apart = roots[0] != roots[1]
            if not bool(apart.any()):
                return
            pairs, roots = pairs[:, apart], roots[:, apart]
            # The larger name points to the smallest it meets, so pointers only go down and every chain ends.
            self._root.scatter_reduce_(0, roots.max(0).values, roots.min(0).values, "amin")
            self._shorten()

    def roots(self, members: Tensor) -> Tensor:
        """The name of each member's set; -1 stays -1."""
        (thin,) = slim(members)
        named = self._root[thin.clamp_min(0)] if len(self._root) else thin
        return torch.where(thin >= 0, named, thin).expand(members.shape)

    def _shorten(self) -> None:
        """Let every member point to the end of its chain."""
        while True:
            further = self._root[self._root]
            if torch.equal(further, self._root):
                return
            self._root = further


def slim(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape without the dimensions that all of them only repeat (stride 0): cut to 1."""
    for dim in range(tensors[0].ndim):
        if tensors[0].shape[dim] > 1 and all(t.stride(dim) == 0 for t in tensors):
            tensors = tuple(t.narrow(dim, 0, 1) for t in tensors)
    return tensors
