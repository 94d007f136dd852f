"""What each kind of operation does to the labels of neurons.

A rule takes what is known so far, the operation, and its value (on the meta device, so only the shape is
there), and returns the labels of that value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from fedmerge.models.graph.labels import (
    CONSTANTS,
    ELEMENTWISE,
    FIXED,
    MOVES,
    NONE,
    REDUCTIONS,
    SPATIAL,
    Labels,
    every,
)
from fedmerge.models.graph.operations import argument, operation
from fedmerge.models.graph.program import Program, Run
from fedmerge.models.graph.unions import slim

Rule = Callable[[Labels, Node, Tensor], Any]


def label(program: Program, values: Mapping[str, Tensor]) -> Labels:
    """Go through a program's operations; of ``values`` and the example only shapes are used."""
    labels = Labels(program)
    shapes = {name: value.to("meta") for name, value in values.items()}
    run = Run(program, shapes, program.example)
    for node in program.nodes:
        value = run.until(node) if node.op != "placeholder" else None
        if isinstance(value, Tensor | list | tuple):
            rule: Rule = RULES.get(operation(node).rstrip("_"), _unknown)
            labels.put(node, rule(labels, node, value))
        elif node.op != "placeholder":
            labels.put(node, value)
    labels.freeze(labels.read(program.output))
    return labels


def _convolution(labels: Labels, node: Node, value: Tensor) -> Tensor:
    inputs = labels.along(labels.given(node), 1)
    groups = int(argument(node, 6, "groups", 1))
    outputs = labels.unions.fresh(value.shape[1])
    if groups == 1:
        labels.write(node, 1, "weight", 1, inputs)
    elif groups == len(inputs) == value.shape[1]:
        outputs = inputs
    else:
        labels.refuse(node, f"a convolution of {groups} groups")
        labels.freeze(outputs)
    labels.write(node, 1, "weight", 0, outputs)
    labels.write(node, 2, "bias", 0, outputs)
    return _channels(outputs, value)


def _linear(labels: Labels, node: Node, value: Tensor) -> Tensor:
    outputs = labels.unions.fresh(value.shape[-1])
    labels.write(node, 1, "weight", 1, labels.along(labels.given(node), -1))
    labels.write(node, 1, "weight", 0, outputs)
    labels.write(node, 2, "bias", 0, outputs)
    return outputs.expand(value.shape)


def _prelu(labels: Labels, node: Node, value: Tensor) -> Tensor:
    given = labels.given(node)
    slopes = node.args[1]
    if isinstance(slopes, Node) and slopes.meta["val"].numel() > 1:
        neurons = labels.along(given, 1)
        labels.write(node, 1, "weight", 0, neurons)
        return _channels(neurons, value)
    return given


def _batch_norm(labels: Labels, node: Node, value: Tensor) -> Tensor:
    neurons = labels.along(labels.given(node), 1)
    for place, name in enumerate(("weight", "bias", "running_mean", "running_var"), start=1):
        labels.write(node, place, name, 0, neurons)
    return _channels(neurons, value)


def _layer_norm(labels: Labels, node: Node, value: Tensor) -> Tensor:
    """Layer norm and RMS norm, over the last dimensions."""
    given = labels.given(node)
    shape = node.args[1]
    assert isinstance(shape, list | tuple)
    neurons = labels.collapse(given, tuple(range(given.ndim - len(shape), given.ndim)))
    for place, name in ((2, "weight"), (3, "bias")):
        weight = argument(node, place, name)
        if len(shape) == 1:
            labels.write(node, place, name, 0, neurons)
        elif isinstance(weight, Node):
            labels.unions.join(labels.read(weight), neurons)
    return neurons.expand(value.shape)


def _group_norm(labels: Labels, node: Node, value: Tensor) -> Tensor:
    neurons = labels.along(labels.given(node), 1)
    labels.write(node, 2, "weight", 0, neurons)
    labels.write(node, 3, "bias", 0, neurons)
    labels.blocks.append(list(neurons.chunk(int(argument(node, 1, "num_groups")))))
    return _channels(neurons, value)


def _attention(labels: Labels, node: Node, value: Tensor) -> Tensor:
    """Scaled dot-product attention of [..., heads, tokens, width]: a head is a block of two strands.

    Its queries and keys are tied pair by pair, and so are its values to what comes out.
    """
    width, head = value.ndim - 1, value.ndim - 3
    keep = (head, width) if value.ndim > 3 else (width,)
    query, key, content = (labels.collapse(labels.given(node, place), keep) for place in range(3))
    mask = argument(node, 3, "attn_mask")
    if query.shape != key.shape or len(query) != len(content):
        return _unknown(labels, node, value)
    labels.unions.join(query, key)
    if isinstance(mask, Node):
        bias = labels.read(mask)
        if bias.ndim >= 3 and bias.shape[-3] > 1 and bool((bias != NONE).any()):
            labels.freeze([bias, query, content])
    pairs = zip(query, content, strict=True) if value.ndim > 3 else [(query, content)]
    labels.blocks.append([torch.cat(pair) for pair in pairs])
    return content.unsqueeze(-2).expand(value.shape)


def _pad(labels: Labels, node: Node, value: Tensor) -> Tensor:
    widths, mode = node.args[1], argument(node, 2, "mode", "constant")
    assert isinstance(widths, list | tuple)
    if isinstance(mode, str) and mode != "constant":
        return _pooled(labels, labels.given(node), len(widths) // 2, value)
    padded: Tensor = torch.ops.aten.constant_pad_nd(labels.given(node), widths, NONE)
    return padded


def _pool(labels: Labels, node: Node, value: Tensor) -> Tensor:
    dimensions = next(int(sign) for sign in operation(node) if sign.isdigit())
    return _pooled(labels, labels.given(node), dimensions, value)


def _pooled(labels: Labels, given: Tensor, dimensions: int, value: Tensor) -> Tensor:
    """All entries along the last dimensions become one neuron."""
    rest = labels.collapse(given, tuple(range(given.ndim - dimensions)))
    return rest.reshape(*rest.shape, *[1] * dimensions).expand(value.shape)


def _move(labels: Labels, node: Node, value: Any) -> Any:
    def read(given: Node) -> Any:
        found = labels.read(given)
        return found.detach() if isinstance(found, Tensor) else found  # t_() changes the shape in place

    args, kwargs = map_arg(node.args, read), map_arg(dict(node.kwargs), read)
    target: Any = node.target
    if operation(node) in ("view", "_unsafe_view"):  # labels have strides of their own
        target = torch.ops.aten.reshape
    return target(*args, **kwargs)


def _select(labels: Labels, node: Node, value: Tensor) -> Tensor:
    """Entries picked by a fixed index, as ``x[:, order]``."""
    data, *indices = node.all_input_nodes
    picked = {index: labels.program.constants.get(_copied(index).name) for index in indices}
    if any(index is None for index in picked.values()):
        return _unknown(labels, node, value)
    args = map_arg(node.args, lambda given: picked[given] if given in picked else labels.read(data))
    target: Any = node.target
    found: Tensor = target(*args)
    return found


def _copied(node: Node) -> Node:
    """The value that a node is an unchanged copy of."""
    while operation(node).rstrip("_") in ("lift_fresh_copy", "detach", "clone", "alias"):
        (node,) = node.all_input_nodes
    return node


def _elementwise(labels: Labels, node: Node, value: Tensor) -> Tensor:
    """Entries that meet belong to one neuron.

    An entry that meets several neurons (a gate that all channels share) ties none of them, but cannot move.
    """
    operands = [labels.read(given) for given in node.all_input_nodes]
    operands = [one for one in operands if isinstance(one, Tensor)]
    wide = [one.reshape((1,) * (value.ndim - one.ndim) + one.shape) for one in operands]
    shared = [
        any(
            value.shape[d] > 1 and one.shape[d] == 1 and any(_varies(o, d) for o in wide)
            for d in range(value.ndim)
        )
        for one in wide
    ]
    labels.freeze([one for one, many in zip(wide, shared, strict=True) if many])
    met = [one.expand(value.shape) for one, many in zip(wide, shared, strict=True) if not many]
    if not met:
        return every(FIXED, value.shape)
    result, *others = slim(*met)
    for one in others:
        labels.unions.join(result, one)
        result = torch.where(result == NONE, one, result)
    return result.expand(value.shape)


def _varies(labels: Tensor, dim: int) -> bool:
    (entries,) = slim(labels)
    return entries.shape[dim] > 1 and bool((entries != entries.narrow(dim, 0, 1)).any())


def _same(labels: Labels, node: Node, value: Tensor) -> Tensor:
    return labels.given(node)


def _reduce(labels: Labels, node: Node, value: Tensor) -> Tensor:
    given = labels.given(node)
    dims = argument(node, 1, "dim")
    if isinstance(dims, int):
        dims = [dims]
    gone = {dim % given.ndim for dim in dims} if dims else set(range(given.ndim))
    kept = labels.collapse(given, tuple(dim for dim in range(given.ndim) if dim not in gone))
    return kept.reshape(value.shape)


def _constant(labels: Labels, node: Node, value: Tensor) -> Tensor:
    return every(NONE, value.shape)


def _unknown(labels: Labels, node: Node, value: Any) -> Any:
    """An operation whose effect on neurons is not known: neither what it reads nor what it gives can move.

    One with a matrix of weights of its own (a recurrent layer) has neurons itself, so it is not supported.
    """
    labels.refuse(node, f"the operation {operation(node)}")
    weights = [given for given in node.all_input_nodes if given.name in labels.program.keys]
    images = any(map(_of_images, node.all_input_nodes))  # else it computes a weight, which its reader names
    if images and any(given.meta["val"].ndim > 1 for given in weights):
        labels.name(node, f"the operation {operation(node)}")
    for given in node.all_input_nodes:
        labels.freeze(labels.read(given))
    if isinstance(value, Tensor):
        return every(FIXED, value.shape)
    return [every(FIXED, part.shape) if isinstance(part, Tensor) else part for part in value]


def _of_images(node: Node) -> bool:
    """Whether a value has an entry for each image."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(isinstance(size, torch.SymInt) for size in value.shape)


def _channels(neurons: Tensor, value: Tensor) -> Tensor:
    """Neurons along dimension 1 of a value."""
    return neurons.reshape(1, -1, *[1] * (value.ndim - 2)).expand(value.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, _move),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(SPATIAL, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(CONSTANTS, _constant),
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("softmax", "log_softmax"), _same),
    **dict.fromkeys(("index", "index_select"), _select),
    "linear": _linear,
    "prelu": _prelu,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
}
