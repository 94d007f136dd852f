"""One ATen operation of a network: its name, its arguments, and how to do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_aggregate

VIEWS = {"slice", "select", "view", "expand", "transpose", "permute", "unsqueeze", "squeeze", "t", "narrow"}
ALIASES = VIEWS | {
    *(
        "reshape",
        "flatten",
        "unflatten",
        "movedim",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "getitem",
    ),
    *("view_as", "expand_as", "contiguous", "to", "alias", "detach", "dropout", "feature_dropout"),
    *("alpha_dropout", "diagonal", "unfold", "as_strided"),
}


def operation(node: Node) -> str:
    """The name of an operation: ``conv2d``, ``relu_``; empty for a placeholder."""
    if node.op == "placeholder":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    """An argument of an operation, given by its place or by its name."""
    if place < len(node.args):
        return node.args[place]
    return node.kwargs.get(name, default)


def apply(
    node: Node,
    read: Callable[[Node], Any],
    alive: dict[Node, Any],
    convert: Callable[[Any], Any] = lambda leaf: leaf,
) -> Any:
    """Do one operation. One that writes into its input makes a new value, which takes the input's place.

    read: gives the value of each node. alive: the values reached so far, by node. convert: applied to every
    argument that is no node, such as a dtype or a device.
    """

    def fill(leaf: Any) -> Any:
        return read(leaf) if isinstance(leaf, Node) else convert(leaf)

    args, kwargs = map_aggregate(node.args, fill), map_aggregate(dict(node.kwargs), fill)
    target: Any = node.target
    if target is torch.ops.aten.view.default:  # strides need not be those that were traced
        target = torch.ops.aten.reshape.default
    first = node.args[0] if node.args else None
    if not operation(node).endswith("_") or not isinstance(first, Node) or _shares_memory(node, first):
        return target(*args, **kwargs)
    packet = getattr(torch.ops.aten, operation(node)[:-1])
    value = getattr(packet, target._overloadname)(*args, **kwargs)
    alive[first] = value
    return value


def _shares_memory(node: Node, first: Node) -> bool:
    """Whether what ``node`` writes into is another value's memory too, so that both must see it.

    Memory of the batch and of the weights is never written into.
    """
    base = first
    while operation(base) in ALIASES and isinstance(base.args[0], Node):
        base = base.args[0]
    if base.op == "placeholder":
        return False
    if base is not first:
        return True
    return any(operation(user) in ALIASES and user < node for user in first.users)
