"""Sums over samples that a layer's least-squares fit needs; the unfolded input is never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.models.graph import Layer

CHUNK = 8_000_000  # float64 numbers of unfolded input at a time: 64 MB


@dataclass(frozen=True)
class LayerSums:
    """Second moments of a layer's input rows X and of target rows A, summed over samples and positions.

    gram: X^T X, d x d. cross: X^T A, d x n. Where a layer is depthwise, each of its c channels has its own:
    c x d x d and c x d. Rows end with a one if the layer has an offset (a bias, or a batch norm behind it).
    """

    gram: Tensor
    cross: Tensor


def has_offset(layer: Layer) -> bool:
    """Whether a layer, with what follows it, can add a constant."""
    return layer.bias is not None or layer.norm is not None


def layer_sums(layer: Layer, weight: Tensor, x: Tensor, targets: Tensor) -> LayerSums:
    """The sums of one batch, in float64.

    weight: the layer's weight, for its shape. x: the layer's input. targets: rows x n, in the order of
    :func:`rows`; for a depthwise layer n is its number of channels, and target i belongs to channel i.
    """
    gram = cross = None
    done = 0
    for unfolded in _unfolded(layer, weight, x):
        part = targets[done : done + unfolded.shape[0]]
        done += unfolded.shape[0]
        if layer.depthwise:
            by_channel = unfolded.transpose(0, 1)
            new_gram = by_channel.transpose(1, 2) @ by_channel
            new_cross = torch.einsum("crd,rc->cd", by_channel, part)
        else:
            new_gram, new_cross = unfolded.T @ unfolded, unfolded.T @ part
        gram = new_gram if gram is None else gram.add_(new_gram)
        cross = new_cross if cross is None else cross.add_(new_cross)
    assert gram is not None
    assert cross is not None
    return LayerSums(gram, cross)


def rows(value: Tensor, layer: Layer) -> Tensor:
    """A layer's pre-activations as float64 rows (sample x position) and columns (channels)."""
    return (
        (value if layer.convolution is None else value.movedim(1, -1))
        .reshape(-1, value.shape[_channel_dim(layer)])
        .to(torch.float64)
    )


def gram_of_inputs(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """X^T X of a layer's input rows, without the column of ones; d x d, or c x d x d where depthwise."""
    total = None
    for unfolded in _unfolded(layer, weight, x, offset=False):
        by_channel = unfolded.transpose(0, 1) if layer.depthwise else unfolded
        part = by_channel.transpose(-1, -2) @ by_channel
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _channel_dim(layer: Layer) -> int:
    return -1 if layer.convolution is None else 1


def _unfolded(layer: Layer, weight: Tensor, x: Tensor, offset: bool = True) -> Iterator[Tensor]:
    """Input rows, chunk by chunk: rows x d, or rows x channels x d for a depthwise convolution."""
    offset = offset and has_offset(layer)
    if layer.convolution is None:
        flat = x.reshape(-1, x.shape[-1])
        for part in flat.split(max(1, CHUNK // (flat.shape[1] + 1))):
            yield _with_ones(part.to(torch.float64), offset)
        return
    width = weight[0].numel() * (x.shape[1] if layer.depthwise else 1)
    step = max(1, CHUNK // max(1, width * x.shape[-1] * x.shape[-2]))
    for part in x.split(step):
        yield _with_ones(_patches(layer, weight, part.to(torch.float64)), offset)


def _patches(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    assert layer.convolution is not None
    stride, padding, dilation, _ = layer.convolution
    if len(weight.shape) != 4:
        raise FedMergeError(f"the layer '{layer.name}' is no 2-d convolution: its neurons cannot be fitted.")
    if isinstance(padding, str):
        raise FedMergeError(
            f"the layer '{layer.name}' pads by '{padding}': give its padding as numbers to match its neurons."
        )
    kernel = weight.shape[2:]
    patches = functional.unfold(x, kernel, _two_of(dilation), _two_of(padding), _two_of(stride))
    flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return flat.reshape(len(flat), x.shape[1], -1) if layer.depthwise else flat


def _with_ones(unfolded: Tensor, offset: bool) -> Tensor:
    return torch.cat([unfolded, torch.ones_like(unfolded[..., :1])], -1) if offset else unfolded


def _two_of(numbers: list[int]) -> tuple[int, ...]:
    return tuple(numbers) * 2 if len(numbers) == 1 else tuple(numbers)
