"""Levels: pieces of a network between which a single tensor passes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fedmerge.models.graph.program import Layer, Program


@dataclass(frozen=True)
class Level:
    """The operations after ``start`` up to ``stop``, with the layers among them.

    One value enters (``start``) and one leaves (``stop``). affine: the level is something without
    parameters, then one layer, so that its least-squares fit has a closed form.
    """

    start: Node
    stop: Node
    layers: tuple[Layer, ...]
    keys: tuple[str, ...]

    @property
    def affine(self) -> bool:
        """Whether the level is one affine map of something that has no parameters."""
        if len(self.layers) != 1 or self.layers[0].depthwise or self.layers[0].output is not self.stop:
            return False
        layer = self.layers[0]
        own = {layer.weight, layer.bias, *layer.norm_keys}
        return all(key in own for key in self.keys)


def levels(program: Program) -> tuple[Level, ...]:
    """Cut a network at every value that all later ones depend on alone; each level holds a layer at least.

    A level ends right after its last layer (and the batch norm or the sum that closes it), so a nonlinearity
    begins the next one and a level's output is a pre-activation: VGG gives one level a layer, a ResNet one a
    block, a transformer one for each attention and each perceptron.
    """
    outputs = [program.index[layer.output] for layer in program.layers]
    ends: list[Node] = []
    begin = -1
    for cut in _cuts(program):
        place = program.index[cut]
        if any(begin < output <= place for output in outputs):
            ends.append(cut)
            begin = place
    if any(output > begin for output in outputs):
        ends.append(program.output)
    elif ends:  # what follows the last layer has no parameters to fit, and belongs to that layer's level
        ends[-1] = program.output
    starts = [program.input, *ends[:-1]]
    return tuple(_level(program, start, stop) for start, stop in zip(starts, ends, strict=True))


def _level(program: Program, start: Node, stop: Node) -> Level:
    first = -1 if start is program.input else program.index[start]
    last = program.index[stop]
    inside = program.nodes[first + 1 : last + 1]
    members = set(inside)
    keys: list[str] = []
    for node in inside:
        for given in node.all_input_nodes:
            key = program.keys.get(given.name)
            if key is not None and key not in keys:
                keys.append(key)
    layers = tuple(layer for layer in program.layers if layer.node in members)
    return Level(start, stop, layers, tuple(keys))


def _cuts(program: Program) -> list[Node]:
    """Return the values after which no earlier one is read; their first dimension is the images."""
    computed = _computed(program)
    last = {node: program.index[node] for node in computed}
    for node in computed:
        for given in node.all_input_nodes:
            if given in last:
                last[given] = max(last[given], program.index[node])
    last[program.output] = len(program.nodes)
    found: list[Node] = []
    reach = -1
    for node in computed:
        if reach <= program.index[node] and node is not program.input and _per_image(program, node):
            found.append(node)
        reach = max(reach, last[node])
    return found


def _computed(program: Program) -> list[Node]:
    """The tensors computed from the input, in order (sizes and weights are not)."""
    found = {program.input: None}
    for node in program.nodes:
        value = node.meta.get("val")
        tensors = hasattr(value, "shape") or isinstance(value, list | tuple)
        if tensors and any(given in found for given in node.all_input_nodes):
            found[node] = None
    return list(found)


def _per_image(program: Program, node: Node) -> bool:
    """Whether a value is a tensor with as many rows as there are images, however many that are."""
    value, batch = node.meta["val"], program.input.meta["val"]
    return isinstance(value, Tensor) and value.ndim > 0 and str(value.shape[0]) == str(batch.shape[0])
