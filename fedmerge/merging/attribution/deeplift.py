"""DeepLIFT, the rescale rule, for any number of layers at once: multipliers come from one backward pass.

Images and the baseline run side by side in one batch. Operations that are not linear hand back, in place of
their derivative, the slope of the secant between the two: then contributions add up exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from fedmerge.errors import FedMergeError
from fedmerge.merging.attribution.conductance import summed
from fedmerge.merging.attribution.secants import RULES, depends_on_image, secant
from fedmerge.models.graph import Program
from fedmerge.models.graph.labels import MOVES, SPATIAL
from fedmerge.models.graph.program import apply, operation

CURVED = {
    *("relu", "relu6", "gelu", "silu", "hardtanh", "sigmoid", "hardswish", "hardsigmoid", "elu"),
    *("leaky_relu", "tanh", "mish", "softplus", "exp", "abs", "clamp", "clamp_min", "pow", "sqrt"),
    *("log", "square", "rsqrt"),
}  # fmt: skip
LINEAR = MOVES | {name for name in SPATIAL if "max" not in name} | {
    *("conv1d", "conv2d", "linear", "batch_norm", "add", "sub", "neg", "rsub", "mean", "sum", "clone", "to"),
    *("contiguous", "_to_copy", "alias", "detach", "dropout", "feature_dropout", "alpha_dropout", "pad"),
    *("constant_pad_nd", "sym_size"),
}  # fmt: skip


def deeplift(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    places: Mapping[str, tuple[Node, int]],
) -> dict[str, Tensor]:
    """Per place, ``sum over images and positions |attribution|`` of each channel of one batch (float64).

    See :func:`attributions`; places as in ``importance``.
    """
    found = attributions(program, values, x, labels, {name: node for name, (node, _) in places.items()})
    return {name: summed(found[name], dim) for name, (_, dim) in places.items()}


@torch.enable_grad()
def attributions(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    nodes: Mapping[str, Node],
) -> dict[str, Tensor]:
    """The contribution ``multiplier (h(x) - h(0))`` of every entry at ``nodes`` to z_y(x) - z_y(0).

    A function f of one number has the multiplier (f(x) - f(0)) / (x - 0), a maximum that of the entry it
    comes from, a product a b the multipliers (b + b_0) / 2 and (a + a_0) / 2; softmax, attention and the
    norms over channels are made of these. So the contributions of all values that cut the network in two sum
    up to z_y(x) - z_y(0) exactly. DeepLIFT as published has no rule for products: on networks without
    attention and layer norm this is its rescale rule, as in captum; unlike there, activations that are called
    as functions are seen. Raises FedMergeError for an operation with no rule.
    """
    both = torch.cat([x, torch.zeros_like(x)]).requires_grad_()
    alive: dict[Node, Any] = {program.input: both}
    wanted = {node: name for name, node in nodes.items()}
    reached: dict[str, Tensor] = {}
    for node in program.nodes:
        if node.op != "placeholder":
            _step(program, node, lambda n: alive[n] if n in alive else values[n.name], alive)
        if node in wanted:  # now, for a later operation may write its own value in this place
            reached[wanted[node]] = alive[node]
    logits = alive[program.output][: len(x)]
    target = logits.gather(1, labels[:, None]).sum()
    slopes = torch.autograd.grad(target, list(reached.values()), allow_unused=True, materialize_grads=True)
    found = {}
    for (name, value), slope in zip(reached.items(), slopes, strict=True):
        here, base = value.detach().chunk(2)
        found[name] = slope[: len(x)] * (here - base)
    return found


def _step(program: Program, node: Node, read: Callable[[Node], Any], alive: dict[Node, Any]) -> None:
    """Do one operation by its rule; an operation on values that do not depend on the image has none."""
    name = operation(node).rstrip("_")
    depends = [n for n in node.all_input_nodes if depends_on_image(read(n))]
    if not depends or name in LINEAR:
        alive[node] = apply(node, read, alive)
        return
    args, kwargs = map_arg((node.args, dict(node.kwargs)), read)
    if name in CURVED:
        target: Any = node.target
        if operation(node).endswith("_"):
            target = getattr(getattr(torch.ops.aten, name), target._overloadname)
        value = secant(lambda t: target(t, *args[1:], **kwargs), cast(Tensor, args[0]))
    elif name in RULES:
        value = RULES[name](*args, **kwargs)
    else:
        raise FedMergeError(
            f"DeepLIFT has no rule for the operation {operation(node)} in '{program.path(node)}' of "
            f"{program.name}: take attribution: conductance."
        )
    alive[node] = value
    first = node.args[0]
    if operation(node).endswith("_") and isinstance(first, Node):
        alive[first] = value
