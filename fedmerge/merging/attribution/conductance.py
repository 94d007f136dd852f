"""Layer conductance for any number of layers at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.models.graph import Program, Run

STEPS = 10


def conductance(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    places: Mapping[str, tuple[Node, int]],
    *,
    steps: int = STEPS,
) -> dict[str, Tensor]:
    """Per place, ``sum over images and positions |attribution|`` of each channel of one batch (float64).

    See :func:`attributions`; places as in ``importance``.
    """
    nodes = {name: node for name, (node, _) in places.items()}
    found = attributions(program, values, x, labels, nodes, steps=steps)
    return {name: summed(found[name], dim) for name, (_, dim) in places.items()}


def attributions(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    nodes: Mapping[str, Node],
    *,
    steps: int = STEPS,
) -> dict[str, Tensor]:
    """The conductance of every entry of the values at ``nodes``, in one forward and one backward a step.

    With the logit z_y of the true class, values h(a) at the image a x, and the steps + 1 Gauss-Legendre nodes
    a_t of (0, 1):

        attribution = sum_{t=1..steps} d z_y / d h (a_t) (h(a_{t+1}) - h(a_t))

    which is what captum's LayerConductance computes one layer at a time. Summed over a layer that everything
    passes through it approximates z_y(x) - z_y(0). Memory: three times the values at ``nodes``, and the graph
    of one step. Paper: Dhamdhere et al., How important is a neuron?, arXiv 1805.12233.
    """
    order = sorted(nodes, key=lambda name: program.index[nodes[name]])
    sums: dict[str, Tensor] = {}
    before: dict[str, tuple[Tensor, Tensor]] = {}
    for alpha in _nodes(steps + 1):
        with torch.enable_grad():
            run = Run(program, values, (alpha * x).requires_grad_())
            reached = [run.until(nodes[name]) for name in order]
            logits = run.until(program.output)
            target = logits.gather(1, labels[:, None]).sum()
            slopes = torch.autograd.grad(target, reached, allow_unused=True, materialize_grads=True)
        for name, value, slope in zip(order, reached, slopes, strict=True):
            value = value.detach()
            if name in before:
                earlier, gradient = before[name]
                part = gradient * (value - earlier)
                sums[name] = sums[name] + part if name in sums else part
            before[name] = value, slope
    return sums


def summed(attribution: Tensor, dim: int) -> Tensor:
    """``sum |attribution|`` over all dimensions but ``dim``, in float64."""
    absolute = attribution.detach().abs().movedim(dim, 0)
    return absolute.reshape(len(absolute), -1).sum(1, dtype=torch.float64)


@cache
def _nodes(count: int) -> tuple[float, ...]:
    """The nodes of Gauss-Legendre quadrature on (0, 1), ascending."""
    nodes, _ = np.polynomial.legendre.leggauss(count)
    return tuple(((1 + nodes) / 2).tolist())
