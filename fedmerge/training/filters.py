"""The arithmetic of one In-Model Merging pass: who tries whom, how alike they are, the convex step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_pairs(sizes: Sequence[int], p: float, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """The trials of one pass over layers of ``sizes`` filters.

    Filter i tries with probability p a partner j, uniform over the other filters of its layer. Returns
    int64 pairs (2 x m) of (i, j), layer after layer with i rising, and the number of pairs per layer.
    """
    n = torch.tensor(sizes).repeat_interleave(torch.tensor(sizes))
    layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    i = torch.cat([torch.arange(size) for size in sizes])
    trial, offset = torch.rand(2, len(n), generator=generator, dtype=torch.float64)
    drawn = (trial < p).nonzero().squeeze(1)
    n, i = n[drawn], i[drawn]
    others = n - 1
    j = (i + 1 + torch.minimum((offset[drawn] * others).long(), others - 1)) % n
    return torch.stack([i, j]), torch.bincount(layer[drawn], minlength=len(sizes)).tolist()


def merge_rows(
    weight: Tensor,
    rows: Tensor,
    partners: Tensor,
    *,
    alpha: float,
    tau: float,
    restore_norm: bool = False,
    companions: Sequence[Tensor] = (),
) -> int | Tensor:
    """Move filters ``rows`` towards ``partners`` where their cosine exceeds tau; return how many moved.

    weight: n x ..., changed in place; all reads come from its values before the call. companions: tensors
    of first dimension n that take the same convex step. The count is a tensor on a GPU (no host sync).
    """
    own, other = weight.index_select(0, rows), weight.index_select(0, partners)
    hit = cosines(own, other) > tau
    if weight.device.type == "cpu":
        chosen = hit.nonzero().squeeze(1)
        if len(chosen) == 0:
            return 0
        rows, partners, hit = rows[chosen], partners[chosen], hit[chosen]
        own, other = own[chosen], other[chosen]
    share = hit * (1 - alpha)
    norm = _norm(own) if restore_norm else None
    merged = _towards(own, other, share)
    if norm is not None:
        scale = norm / _norm(merged).clamp_min(torch.finfo(torch.float32).tiny)
        merged *= torch.where(hit, scale, 1.0).to(merged.dtype).view(-1, *[1] * (merged.ndim - 1))
    weight.index_copy_(0, rows, merged)
    for tensor in companions:
        moved = _towards(tensor.index_select(0, rows), tensor.index_select(0, partners), share)
        tensor.index_copy_(0, rows, moved)
    return len(rows) if weight.device.type == "cpu" else hit.sum()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of ``a`` with the same row of ``b`` (n x ... each), in [-1, 1]; 0 for a zero row."""
    a, b = a.flatten(1), b.flatten(1)
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    scale = (_norm(a) * _norm(b)).clamp_min(torch.finfo(torch.float32).tiny)
    return (torch.linalg.vecdot(a, b) / scale).clamp(-1.0, 1.0)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def _towards(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """own + share (other - own), with one share per row; overwrites ``own``, which is a gathered copy."""
    return own.lerp_(other, share.to(own.dtype).view(-1, *[1] * (own.ndim - 1)))
