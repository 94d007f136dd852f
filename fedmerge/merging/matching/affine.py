"""A layer and the batch norm behind it as one affine map: read it from weights, write it into them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmerge.models.graph import Layer
from fedmerge.models.state import State


def effective(state: Mapping[str, Tensor], layer: Layer) -> tuple[Tensor, Tensor | None]:
    """Weight (float64, shape of the layer's) and offset (n, or None) of a layer, its batch norm folded in.

    With statistics m, v and affine g, b of the norm: ``W' = W g / sqrt(v + eps)``, ``b' = (b_W - m) g /
    sqrt(v + eps) + b``.
    """
    weight = state[layer.weight].to(torch.float64)
    bias = None if layer.bias is None else state[layer.bias].to(torch.float64)
    norm = layer.norm
    if norm is None:
        return weight, bias
    mean, var = state[norm.mean].to(torch.float64), state[norm.var].to(torch.float64)
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * state[norm.weight].to(torch.float64)
    offset = ((0.0 if bias is None else bias) - mean) * scale
    if norm.bias is not None:
        offset = offset + state[norm.bias].to(torch.float64)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), offset


def written(state: Mapping[str, Tensor], layer: Layer, weight: Tensor, offset: Tensor | None) -> State:
    """The entries that make a layer compute ``weight`` and ``offset``; dtypes and devices are ``state``'s.

    A batch norm behind the layer becomes a pure shift: its statistics are set to m = -offset where it has no
    bias of its own, else to m = 0, with v = 1 and a weight of sqrt(1 + eps), so that nothing is scaled.
    """
    new: State = {layer.weight: weight.reshape(state[layer.weight].shape)}
    norm = layer.norm
    if norm is None:
        if layer.bias is not None and offset is not None:
            new[layer.bias] = offset
    else:
        assert offset is not None
        one = torch.ones_like(offset)
        new[norm.mean] = torch.zeros_like(offset)
        new[norm.var] = one if norm.weight is not None else one - norm.eps
        if norm.weight is not None:
            new[norm.weight] = one * (1 + norm.eps) ** 0.5
        if layer.bias is not None:
            new[layer.bias] = torch.zeros_like(offset)
        if norm.bias is not None:
            new[norm.bias] = offset
        else:
            new[norm.mean] = -offset
    return {key: value.to(state[key].dtype).to(state[key].device) for key, value in new.items()}


def as_columns(weight: Tensor, offset: Tensor | None) -> Tensor:
    """Weight and offset as the d x n matrix that multiplies input rows (see ``LayerSums``)."""
    flat = weight.reshape(weight.shape[0], -1)
    return (flat if offset is None else torch.cat([flat, offset[:, None]], 1)).T


def from_columns(columns: Tensor, shape: torch.Size, offset: bool) -> tuple[Tensor, Tensor | None]:
    """The inverse of :func:`as_columns` for a layer's weight of ``shape``."""
    table = columns.T
    if not offset:
        return table.reshape(shape), None
    return table[:, :-1].reshape(shape), table[:, -1].contiguous()
