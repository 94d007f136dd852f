"""Label every entry of every value with the neuron it belongs to.

Each value of a :class:`~fedmerge.models.graph.program.Program` gets a tensor of its own shape that holds the
number of the neuron each entry belongs to. Whatever only moves entries about (views, permutations,
concatenations, slices) is run on the labels themselves; an elementwise operation makes the neurons it brings
together one; a layer begins new ones (``rules``). What remains is written down: which neurons stand along
which dimension of which weight, which operations they pass through, and which must move as a block (the heads
of attention, the groups of group norm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.models.graph.operations import VIEWS, argument
from fedmerge.models.graph.program import Program
from fedmerge.models.graph.unions import Unions, slim

NONE = -1  # an entry that is the same whichever neurons move, such as padding
FIXED = 0  # the neuron of all entries that cannot move

MOVES = VIEWS | {
    *("reshape", "_unsafe_view", "flatten", "unflatten", "narrow", "split", "split_with_sizes", "chunk"),
    *("unbind", "cat", "stack", "getitem", "roll", "repeat", "pixel_unshuffle", "movedim", "index_select"),
}
ELEMENTWISE = {
    *(
        "relu",
        "relu6",
        "gelu",
        "silu",
        "hardtanh",
        "sigmoid",
        "hardswish",
        "hardsigmoid",
        "elu",
        "leaky_relu",
    ),
    *("dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "_to_copy", "tanh", "mish"),
    *("softplus", "exp", "abs", "neg", "clamp", "clamp_min", "clamp_max", "alias", "detach", "pow", "sqrt"),
    *("rsqrt", "selu", "celu", "add", "sub", "mul", "div", "maximum", "minimum", "log", "square", "rsub"),
    *("softsign", "hardshrink", "softshrink", "log_sigmoid", "reciprocal", "where", "masked_fill", "erf"),
    *("lift_fresh_copy",),
}
SPATIAL = {
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool1d", "avg_pool1d"),
    *("adaptive_avg_pool1d", "upsample_nearest2d", "upsample_bilinear2d", "max_pool3d", "avg_pool3d"),
}
REDUCTIONS = {"mean", "sum", "amax", "amin"}
CONSTANTS = {
    *("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"),
}


class Labels:
    """What is known so far of a network's neurons, while its operations are gone through in order.

    unions: which numbers are one neuron; what joins ``FIXED`` cannot move. axes: by key and dimension, the
    neurons along it. elements: by key, the neuron of each entry of a weight that is added or multiplied entry
    by entry. passes: the neurons each operation meets. blocks: families of sets that move as a whole, each
    set an ordered list of neurons. unsupported: operations whose effect on neurons is not known, in words.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.unions = Unions()
        self.unions.fresh(1)  # FIXED
        self.axes: dict[str, dict[int, Tensor]] = {}
        self.elements: dict[str, Tensor] = {}
        self.passes: list[Tensor] = []
        self.blocks: list[list[Tensor]] = []
        self.unsupported: list[str] = []
        self._known: dict[Node, Any] = {program.input: every(FIXED, program.example.shape)}

    def put(self, node: Node, labels: Any) -> None:
        """Note the labels of an operation's value, and which neurons it meets."""
        if isinstance(labels, Tensor):
            labels = self._thin(labels)
            (entries,) = slim(labels)
            self.passes.append(torch.unique(entries))
        elif isinstance(labels, list | tuple):
            labels = [self._thin(part) for part in labels]
        self._known[node] = labels

    def read(self, node: Node) -> Any:
        """The labels of a value; those of a weight are made when it is first used entry by entry."""
        if node in self._known:
            return self._known[node]
        value = self.program.constants.get(node.name)
        if value is not None:
            uniform = value.numel() > 0 and bool((value == value.reshape(-1)[0]).all())
            return every(NONE if uniform else FIXED, value.shape)
        key, shape = self.program.keys[node.name], node.meta["val"].shape
        if key not in self.elements:
            self.elements[key] = self.unions.fresh(shape.numel()).reshape(shape)
        return self.elements[key]

    def given(self, node: Node, place: int = 0) -> Tensor:
        """The labels of one argument of an operation."""
        source = node.args[place]
        assert isinstance(source, Node)
        found: Tensor = self.read(source)
        return found

    def freeze(self, labels: Any) -> None:
        """Mark these neurons as unable to move."""
        for part in labels if isinstance(labels, list | tuple) else [labels]:
            if isinstance(part, Tensor):
                self.unions.join(part, every(FIXED, part.shape))

    def collapse(self, labels: Tensor, keep: tuple[int, ...]) -> Tensor:
        """Make entries that differ only outside dimensions ``keep`` one neuron; return those kept."""
        (entries,) = slim(labels)
        others = [dim for dim in range(labels.ndim) if dim not in keep]
        flat = entries.permute(*keep, *others).reshape(*(entries.shape[dim] for dim in keep), -1)
        one = flat.max(-1).values
        self.unions.join(flat, one.unsqueeze(-1).expand_as(flat))
        return one.expand([labels.shape[dim] for dim in keep])

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """One neuron for each index of ``dim``."""
        return self.collapse(labels, (dim % labels.ndim,))

    def write(self, node: Node, place: int, name: str, dim: int, neurons: Tensor) -> None:
        """Note that ``neurons`` stand along a dimension of this argument, if it is a weight."""
        weight = argument(node, place, name)
        if not isinstance(weight, Node):
            return
        key = self.program.keys.get(weight.name)
        if key is None:
            self.freeze(neurons)
            if weight.op != "placeholder":
                self.name(node, "a weight that is computed in the forward pass")
            return
        known = self.axes.setdefault(key, {})
        if dim in known:
            self.unions.join(known[dim], neurons)
        else:
            known[dim] = neurons

    def refuse(self, node: Node, what: str) -> None:
        """Mark an operation's effect on neurons as unknown; nothing that it reads can move."""
        inputs = [self.read(given) for given in node.all_input_nodes if given.name not in self.program.keys]
        flat = [part for one in inputs for part in (one if isinstance(one, list) else [one])]
        if any(isinstance(part, Tensor) and self._movable(part) for part in flat):
            self.name(node, what)
        self.freeze(flat)

    def name(self, node: Node, what: str) -> None:
        """Note that an operation is not supported."""
        self.unsupported.append(f"{what} in '{self.program.path(node)}'")

    def _movable(self, labels: Tensor) -> bool:
        return bool((self.unions.roots(*slim(labels)) > FIXED).any())

    def _thin(self, labels: Tensor) -> Tensor:
        """Return the labels by their sets' names, with memory only for dimensions along which they vary."""
        entries = self.unions.roots(*slim(labels))
        for dim in range(entries.ndim):
            first = entries.narrow(dim, 0, 1)
            if entries.shape[dim] > 1 and bool((entries == first).all()):
                entries = first
        return entries.expand(labels.shape)


def every(label: int, shape: torch.Size) -> Tensor:
    """One label for all entries."""
    return torch.tensor(label).expand(shape)
