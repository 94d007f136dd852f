"""Importance by ablation: what the logit loses without a channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.models.graph import Program, Run

IMAGES = 512  # images x channels in one forward pass


@torch.no_grad()
def ablation(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    places: Mapping[str, tuple[Node, int]],
) -> dict[str, Tensor]:
    """Per place, ``sum over images |z_y - z_y(channel zeroed)|`` of each channel of one batch (float64).

    The batch is repeated for as many channels as fit, each copy with another channel of the pre-activation at
    zero everywhere, so one place of n channels costs n / chunk forward passes of the network. Places as in
    ``importance``.

    Departs from the program of Neuron Interpolation (arXiv 2507.00037) in convolutions: that one sets one
    position of one channel to zero at a time and adds up the changes over positions, n x H x W passes. In
    linear layers the two are one.

    A channel that the true classes' logits do not depend on has exactly 0: copies are compared with a batch
    of as many unchanged copies, for a network's rounding may depend on the number of images.
    """
    whole: dict[int, Tensor] = {}
    return {
        name: torch.cat(
            [
                (_unchanged(program, values, x, labels, len(logits), whole) - logits)
                .abs()
                .sum(1, dtype=torch.float64)
                for logits in _without(program, values, x, labels, node, dim)
            ]
        )
        for name, (node, dim) in places.items()
    }


def _unchanged(
    program: Program,
    values: Mapping[str, Tensor],
    x: Tensor,
    labels: Tensor,
    copies: int,
    known: dict[int, Tensor],
) -> Tensor:
    """The true classes' logits (copies x images) of so many copies of the batch; kept in ``known``."""
    if copies not in known:
        logits = program.run(values, x.repeat(copies, *[1] * (x.ndim - 1)))
        known[copies] = logits.gather(1, labels.repeat(copies)[:, None]).view(copies, len(x))
    return known[copies]


def _without(
    program: Program, values: Mapping[str, Tensor], x: Tensor, labels: Tensor, node: Node, dim: int
) -> list[Tensor]:
    """The true classes' logits (channels x images) with one channel after the other at zero, in chunks."""
    count = int(node.meta["val"].shape[dim])
    chunk = max(1, IMAGES // len(x))
    found = []
    for start in range(0, count, chunk):
        channels = torch.arange(start, min(start + chunk, count), device=x.device)
        copies = len(channels)
        run = Run(program, values, x.repeat(copies, *[1] * (x.ndim - 1)))
        value = run.until(node)
        by_channel = value.clone().unflatten(0, (copies, len(x))).movedim(dim % value.ndim + 1, 1)
        by_channel[torch.arange(copies, device=x.device), channels] = 0.0
        run.alive[node] = by_channel.movedim(1, dim % value.ndim + 1).flatten(0, 1)
        logits = run.until(program.output) if node is not program.output else run.alive[node]
        found.append(logits.gather(1, labels.repeat(copies)[:, None]).view(copies, len(x)))
    return found
