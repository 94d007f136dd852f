"""The linear and convolutional layers of a network, each with the batch norm that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from fedmerge.models.graph.operations import argument, operation


@dataclass(frozen=True)
class Norm:
    """A batch norm that follows a layer directly, and so is one affine map with it; keys of its entries."""

    weight: str | None
    bias: str | None
    mean: str
    var: str
    eps: float


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer: keys of its entries, its place in the program, what follows it.

    input, node, output: the operations that make its input, its own value, and its pre-activation, which is
    the value of ``norm`` where a batch norm follows. convolution: stride, padding, dilation and groups, or
    None.
    """

    name: str
    weight: str
    bias: str | None
    norm: Norm | None
    input: Node
    node: Node
    output: Node
    convolution: tuple[Any, Any, Any, int] | None

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved with a filter of its own."""
        return self.convolution is not None and self.convolution[3] > 1

    @property
    def norm_keys(self) -> tuple[str, ...]:
        """The keys of the batch norm that follows, if one does."""
        norm = self.norm
        return () if norm is None else tuple(k for k in (norm.weight, norm.bias, norm.mean, norm.var) if k)


def layer_at(node: Node, keys: Mapping[str, str]) -> Layer | None:
    """The layer that an operation computes, or None. keys: state key of each placeholder, by its name."""
    kind = operation(node)
    if kind not in ("conv2d", "conv1d", "linear"):
        return None
    given, weight, bias = node.args[0], node.args[1], argument(node, 2, "bias")
    if not isinstance(weight, Node) or weight.name not in keys or not isinstance(given, Node):
        return None
    key = keys[weight.name]
    after = _norm_after(node, keys)
    return Layer(
        name=key.rpartition(".")[0] or key,
        weight=key,
        bias=keys.get(bias.name) if isinstance(bias, Node) else None,
        norm=after[1] if after else None,
        input=given,
        node=node,
        output=after[0] if after else node,
        convolution=None if kind == "linear" else _convolution(node),
    )


def _norm_after(node: Node, keys: Mapping[str, str]) -> tuple[Node, Norm] | None:
    """The batch norm that alone reads ``node``, with fixed statistics that it alone reads."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if operation(user) != "batch_norm" or user.args[0] is not node:
        return None
    names = [given.name if isinstance(given, Node) else "" for given in user.args[1:5]]
    weight, bias, mean, var = (keys.get(name) for name in names)
    statistics = user.args[3]
    if mean is None or var is None or not isinstance(statistics, Node) or len(statistics.users) > 1:
        return None
    return user, Norm(weight, bias, mean, var, float(argument(user, 7, "eps")))


def _convolution(node: Node) -> tuple[Any, Any, Any, int]:
    return (
        argument(node, 3, "stride", [1]),
        argument(node, 4, "padding", [0]),
        argument(node, 5, "dilation", [1]),
        int(argument(node, 6, "groups", 1)),
    )
