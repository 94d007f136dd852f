"""By how much each layer of a chain of layers, and what follows it, can stretch its input at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.models.graph.layers import Layer, Norm
from fedmerge.models.graph.operations import argument, operation
from fedmerge.models.graph.program import Program

SMOOTH = {"relu": 1.0, "relu6": 1.0, "tanh": 1.0, "selu": 1.7581, "silu": 1.0999, "gelu": 1.13}
"""Lipschitz constants, rounded up, of activations f with f(0) = 0."""
MOVES = {
    *("view", "reshape", "flatten", "contiguous", "clone", "alias", "detach", "permute", "transpose"),
    *("squeeze", "unsqueeze", "dropout", "feature_dropout", "alpha_dropout"),
}
"""Operations that keep all numbers in evaluation mode."""


@dataclass(frozen=True)
class Piece:
    """A layer of a chain and what follows it up to ``stop``, the input of the next layer or the output.

    lipschitz: how much the operations after the layer stretch at most, in Euclidean norm.
    """

    layer: Layer
    stop: Node
    lipschitz: float


@dataclass(frozen=True)
class Affine:
    """The affine map of a layer, batch norm included: its largest singular value and its offset's norm."""

    gain: float
    offset: float


def chain(program: Program) -> tuple[Piece, ...]:
    """Return the layers of a network in which each value is computed from the one before alone.

    Raises FedMergeError where an operation between them is none of those whose stretch is known and that
    keep zero: sums of residual networks, attention, norms over channels or tokens.
    """
    pieces: list[Piece] = []
    node = program.output
    for layer in reversed(program.layers):
        stop, stretch = node, 1.0
        while node is not layer.node:
            if node is not layer.output:  # a batch norm there is part of the layer's affine map
                stretch *= _stretch(program, node)
            given = node.args[0] if node.args else None
            if not isinstance(given, Node):
                raise FedMergeError(f"{program.name} is no chain of layers: '{layer.name}' is beside others.")
            node = given
        pieces.append(Piece(layer, stop, stretch))
        node = layer.input
    return tuple(reversed(pieces))


def affine(layer: Layer, state: Mapping[str, Tensor]) -> Affine:
    """Return what a layer's affine map does, from the entries of a state, in float64.

    A convolution's largest singular value is that of the circular convolution on a grid so large that
    nothing wraps around (Sedghi, Gupta and Long, arXiv 1805.10408): never below its own, at any padding and
    stride.
    """
    weight = state[layer.weight].detach().double()
    bias = torch.zeros(len(weight)) if layer.bias is None else state[layer.bias]
    bias = bias.detach().to(weight)
    if layer.norm is not None:
        weight, bias = _folded(layer.norm, weight, bias, state)
    places = layer.node.meta["val"][0].numel() / len(weight)
    return Affine(_gain(layer, weight), float(bias.norm()) * math.sqrt(places))


def _folded(norm: Norm, weight: Tensor, bias: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer and the batch norm after it, as one layer."""

    def entry(key: str | None, default: float) -> Tensor:
        return torch.full_like(bias, default) if key is None else state[key].detach().to(bias)

    scale = entry(norm.weight, 1.0) / (entry(norm.var, 1.0) + norm.eps).sqrt()
    moved = (bias - entry(norm.mean, 0.0)) * scale + entry(norm.bias, 0.0)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), moved


def _gain(layer: Layer, weight: Tensor) -> float:
    if layer.convolution is None:
        return float(torch.linalg.matrix_norm(weight, 2))
    dilation, groups = layer.convolution[2:]
    kernel = weight.shape[2:]
    rates = _sides(dilation, len(kernel))
    reach = [rate * (side - 1) for rate, side in zip(rates, kernel, strict=True)]
    sides = [int(side) for side in layer.input.meta["val"].shape[2:]]
    grid = weight.new_zeros(*weight.shape[:2], *map(sum, zip(sides, reach, strict=True)))
    taps = [slice(0, most + 1, rate) for most, rate in zip(reach, rates, strict=True)]
    grid[(slice(None), slice(None), *taps)] = weight
    waves = torch.fft.rfftn(grid, dim=tuple(range(2, grid.ndim))).flatten(2)  # outputs x inputs x waves
    split = waves.unflatten(0, (groups, -1)).permute(0, 3, 1, 2)
    return float(torch.linalg.matrix_norm(split, 2).max())


def _stretch(program: Program, node: Node) -> float:
    """The Lipschitz constant of an operation after a layer."""
    name = operation(node).rstrip("_")
    if name in MOVES:
        return 1.0
    if name in SMOOTH:
        return SMOOTH[name]
    if name in RULES:
        return RULES[name](node)
    raise FedMergeError(
        f"'{name}' at '{program.path(node)}' of {program.name} is none of the operations whose outputs can "
        "be bounded: give a chain of linear or convolutional layers, batch norms, activations that are 0 at "
        "0, and pooling."
    )


def _slope(node: Node) -> float:
    return max(1.0, abs(float(argument(node, 1, "slope", 1.0))))


def _clipped(node: Node) -> float:
    low, high = (float(argument(node, place, "", default)) for place, default in ((1, -1.0), (2, 1.0)))
    if low > 0 or high < 0:
        raise FedMergeError(
            f"a hardtanh from {low:g} to {high:g} is not 0 at 0: its outputs are not bounded."
        )
    return 1.0


def _max_pool(node: Node) -> float:
    return math.sqrt(math.prod(_overlaps(node)))


def _mean_pool(node: Node) -> float:
    """A mean of k numbers; each number in as many means as windows overlap."""
    kernel = _sides(node.args[1], 2)
    whole = not any(_sides(argument(node, 3, "padding", 0), 2)) and not argument(node, 4, "ceil_mode", False)
    return math.sqrt(math.prod(_overlaps(node)) / (math.prod(kernel) if whole else 1))


def _adaptive_pool(node: Node) -> float:
    given = node.args[0]
    assert isinstance(given, Node)
    found = 1.0
    for side, windows in zip(given.meta["val"].shape[-2:], node.meta["val"].shape[-2:], strict=True):
        if windows > side:
            raise FedMergeError(
                f"adaptive pooling from {side} to {windows} places repeats numbers: it has no bound."
            )
        found *= windows / side if side % windows == 0 else 2 / (side // windows)
    return math.sqrt(found)


def _mean(node: Node) -> float:
    given = node.args[0]
    assert isinstance(given, Node)
    each, before = node.meta["val"][0].numel(), given.meta["val"][0].numel()
    return math.sqrt(each / before)


def _overlaps(node: Node) -> list[int]:
    """In how many windows of a pooling a number is at most, on each side."""
    kernel = _sides(node.args[1], 2)
    if operation(node) == "max_pool2d" and max(_sides(argument(node, 4, "dilation", 1), 2)) > 1:
        return kernel
    stride = _sides(argument(node, 2, "stride", []) or kernel, 2)
    return [-(-size // step) for size, step in zip(kernel, stride, strict=True)]


def _sides(value: Any, count: int) -> list[int]:
    given = list(value) if isinstance(value, list | tuple) else [value]
    return [int(each) for each in (given if len(given) == count else given * count)]


RULES: Mapping[str, Callable[[Node], float]] = {
    "leaky_relu": _slope, "elu": _slope, "hardtanh": _clipped, "max_pool2d": _max_pool,
    "avg_pool2d": _mean_pool, "adaptive_avg_pool2d": _adaptive_pool, "mean": _mean,
}  # fmt: skip
