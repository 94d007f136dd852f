"""The arithmetic of one In-Model Merging pass: pairs of filters, their cosines, the convex step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_pairs(sizes: Sequence[int], p: float, generator: torch.Generator) -> tuple[Tensor, list[int]]:
    """Draw the trials (pairs of filters) of one pass over layers of ``sizes`` filters.

    Filter i tries with probability p a partner j, uniform over the other filters of its layer. Returns
    int64 pairs (2 x m) of (i, j), layer after layer with i rising, and the number of pairs per layer.
    """
    n = torch.tensor(sizes).repeat_interleave(torch.tensor(sizes))
    layer = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    i = torch.cat([torch.arange(size) for size in sizes])
    trial, offset = torch.rand(2, len(n), generator=generator, dtype=torch.float64)
    drawn = (trial < p).nonzero().squeeze(1)
    n, i = n[drawn], i[drawn]
    counts = torch.bincount(layer[drawn], minlength=len(sizes)).tolist()
    return torch.stack([i, _other(i, n, offset[drawn])]), counts


def draw_others(
    rows: Tensor, sizes: Sequence[int], counts: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Draw one filter j != i for each of ``rows``, uniform over the other filters of its layer.

    rows: int64, m, layer after layer; sizes: filters of each layer; counts: how many rows belong to it.
    """
    n = torch.tensor(sizes).repeat_interleave(torch.tensor(counts))
    return _other(rows, n, torch.rand(len(rows), generator=generator, dtype=torch.float64))


def _other(i: Tensor, n: Tensor, u: Tensor) -> Tensor:
    """Return the filter that u in [0, 1) picks among the n - 1 others than i, counted from i + 1."""
    return (i + 1 + torch.minimum((u * (n - 1)).long(), n - 2)) % n


def merge_rows(
    weight: Tensor,
    rows: Tensor,
    partners: Tensor,
    *,
    alpha: float,
    tau: float,
    targets: Tensor | None = None,
    restore_norm: bool = False,
    companions: Sequence[Tensor] = (),
) -> int | Tensor:
    """Move filters ``rows`` towards ``partners`` where their cosine exceeds tau; return how many moved.

    weight: n x ..., changed in place; all reads come from its values before the call. targets: the filters
    that are moved towards, if not the partners; the partners then only decide who moves. companions: tensors
    of first dimension n that take the same convex step. The count is a tensor on a GPU (no host sync).
    """
    own = weight.index_select(0, rows)
    hit = cosines(own, weight.index_select(0, partners)) > tau
    targets = partners if targets is None else targets
    if weight.device.type == "cpu":
        chosen = hit.nonzero().squeeze(1)
        if len(chosen) == 0:
            return 0
        rows, targets, hit, own = rows[chosen], targets[chosen], hit[chosen], own[chosen]
    share = hit.double() * (1 - alpha)
    norm = _norm(own) if restore_norm else None
    merged = _towards(own, weight.index_select(0, targets), share)
    if norm is not None:
        scale = norm / _norm(merged).clamp_min(torch.finfo(torch.float32).tiny)
        merged *= torch.where(hit, scale, 1.0).to(merged.dtype).view(-1, *[1] * (merged.ndim - 1))
    weight.index_copy_(0, rows, merged)
    for tensor in companions:
        moved = _towards(tensor.index_select(0, rows), tensor.index_select(0, targets), share)
        tensor.index_copy_(0, rows, moved)
    return len(rows) if weight.device.type == "cpu" else hit.sum()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of ``a`` with the same row of ``b`` (n x ... each), in [-1, 1].

    0 for a zero row, and where the product of two norms is below the least number of their type (float32 for
    half precision): such filters are as good as zero.
    """
    a, b = a.flatten(1), b.flatten(1)
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    scale = (_norm(a) * _norm(b)).clamp_min(torch.finfo(a.dtype).tiny)
    return (torch.linalg.vecdot(a, b) / scale).clamp(-1.0, 1.0)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def _towards(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """own + share (other - own), with one share per row; overwrites ``own``, which is a gathered copy."""
    return own.lerp_(other, share.to(own.dtype).view(-1, *[1] * (own.ndim - 1)))
