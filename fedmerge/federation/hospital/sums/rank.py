"""Check that a matrix of sums has as many rows as columns: with fewer, the rows can be recovered from it.

From X^T X with fewer rows than columns the rows are known up to a rotation, which independent component
analysis finds. Patches overlap, so they do not all count as rows: a layer whose input has v numbers per image
and whose rows have d columns has v / d effective rows per image, at most one per position. That is 1 for a
linear layer on a whole image, and H W / k^2 for a k x k convolution over a map of H x W.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.sums.rules import Rows
from fedmerge.models.graph import Layer, Program


def check_rows(
    program: Program,
    state: Mapping[str, Tensor],
    models: int,
    kind: str,
    options: Mapping[str, Any],
    images: int,
    rows: Rows,
) -> None:
    """Raise FedMergeError if a request has more columns than ``images`` have effective rows.

    state: of a model of this architecture, for its shapes. models: number of parents M. rows: which layers
    are checked.
    """
    if rows == "off":
        return
    for layer, columns in _columns(program, state, models, kind, options):
        if rows == "pixels" and not reads_pixels(program, layer):
            continue
        each = effective_rows(layer, state)
        if images * each < columns:
            least = math.ceil(columns / each)
            raise FedMergeError(
                f"sums ('{kind}') at layer '{layer.name}' have {columns} columns, and {images} images have "
                f"only {images * each:.0f} effective rows there, from which the rows themselves could be "
                f"found: ask for at least {least} images, choose a network with narrower layers, or ask the "
                f"hospital's owner to set 'rows: {'pixels' if rows == 'every' else 'off'}' in its rules for "
                "sums."
            )


def effective_rows(layer: Layer, state: Mapping[str, Tensor]) -> float:
    """Return the rows per image, counted as if no two patches overlapped; see the module's docstring."""
    width = state[layer.weight][0].numel()
    channels = _size(layer.input)[1] if layer.depthwise else 1
    return min(positions(layer.output, len(state[layer.weight])), _numel(layer.input) / channels / width)


def positions(node: Node, channels: int) -> float:
    """Return the positions per image of a value with so many channels."""
    return _numel(node) / channels


def reads_pixels(program: Program, layer: Layer) -> bool:
    """Check whether a layer's input comes from the images with no other layer between."""
    others = {other.node for other in program.layers}
    seen, todo = {layer.input}, [layer.input]
    while todo:
        node = todo.pop()
        if node is program.input:
            return True
        new = [given for given in node.all_input_nodes if given not in seen | others and _is_value(given)]
        todo += new
        seen.update(new)
    return False


def _is_value(node: Node) -> bool:
    """Check whether a node is a tensor; the number of images, for example, is a node but no tensor."""
    return isinstance(node.meta.get("val"), Tensor)


def _columns(
    program: Program, state: Mapping[str, Tensor], models: int, kind: str, options: Mapping[str, Any]
) -> Iterator[tuple[Layer, int]]:
    """Yield the layers of a request, each with the columns of the widest matrix that the reply tells.

    Sums of n channels and of their squares are n numbers; a matrix of c columns has c (c + 1) / 2.
    """
    named = {options.get("name")} | set(options.get("layers", ()))
    for layer in program.layers:
        weight = state[layer.weight]
        width, n = weight[0].numel(), len(weight)
        told = {
            "inputs": width,
            "layer": max(width, models * n),
            "outer": models * n,
            "moments": math.isqrt(2 * models * n),
            "importance": math.isqrt(2 * models * n),
            "fused-moments": math.isqrt(2 * n),
        }.get(kind, 0)
        if kind in ("outer", "layer", "fused-moments") and layer.name not in named:
            continue
        if (
            kind in ("outer", "layer")
            and reads_pixels(program, layer)
            and options.get("activation") != "relu"
        ):
            told = min(told, width)  # linear in the pixels: no more columns than they have
        if told:
            yield layer, told


def _numel(node: Node) -> int:
    return math.prod(_size(node)[1:])


def _size(node: Node) -> tuple[int, ...]:
    """Return the shape of a value, with 0 for the number of images, which is not fixed."""
    return (0, *(int(length) for length in node.meta["val"].shape[1:]))
