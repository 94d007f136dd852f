"""A layer and the batch norm behind it as one affine map: read it from weights, write it into them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmerge.merging.neurons.sums import has_offset
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


def fitted(state: Mapping[str, Tensor], layer: Layer, columns: Tensor, gram: Tensor) -> State:
    """The entries that make a layer and the batch norm behind it compute ``columns``.

    columns: d x n that multiply input rows (n x d where depthwise), gram: X^T X of those rows (see
    ``LayerSums``). A batch norm gets the mean and unbiased variance that its input has on these rows as its
    statistics, and an affine part that undoes them, so that nothing is scaled, and measuring the statistics
    anew changes nothing. One without affine part gets statistics 0 and 1, shifted. Dtypes and devices are
    ``state``'s.
    """
    shape = state[layer.weight].shape
    norm = layer.norm
    weight, offset = from_columns(columns.T if layer.depthwise else columns, shape, has_offset(layer))
    new: State = {layer.weight: weight}
    if norm is None:
        if layer.bias is not None and offset is not None:
            new[layer.bias] = offset
    else:
        assert offset is not None
        mean, var = _moments(columns, gram, layer.depthwise)
        if norm.weight is None or norm.bias is None:
            mean, var = -offset, torch.ones_like(var) - (norm.eps if norm.weight is None else 0.0)
        new[norm.mean], new[norm.var] = mean, var
        if norm.weight is not None:
            new[norm.weight] = (var + norm.eps).sqrt()
        if norm.bias is not None:
            new[norm.bias] = offset + mean if norm.weight is not None else torch.zeros_like(offset)
        if layer.bias is not None:
            new[layer.bias] = torch.zeros_like(offset)
    return {key: value.to(state[key].dtype).to(state[key].device) for key, value in new.items()}


def _moments(columns: Tensor, gram: Tensor, depthwise: bool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of ``X columns`` without the offset; the last row of X^T X holds sums."""
    linear = columns.clone()
    if depthwise:
        linear[:, -1] = 0.0
        count, total = gram[:, -1, -1], (gram[:, -1] * linear).sum(1)
        square = torch.einsum("cd,cde,ce->c", linear, gram, linear)
    else:
        linear[-1] = 0.0
        count, total = gram[-1, -1], gram[-1] @ linear
        square = (linear * (gram @ linear)).sum(0)
    mean = total / count
    var = (square / count - mean.square()).clamp(min=0)
    return mean, var * count / (count - 1).clamp(min=1)


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
