"""Importance scores of every layer's neurons, as sums over images that add up over hospitals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.merging.attribution.ablation import ablation
from fedmerge.merging.attribution.conductance import conductance
from fedmerge.merging.attribution.deeplift import deeplift
from fedmerge.models.graph import Program
from fedmerge.models.state import State

Kind = Literal["uniform", "conductance", "deeplift", "ablation"]
Normalisation = Literal["none", "sum1", "mean1"]
Places = Mapping[str, tuple[Node, int]]

_RULES: dict[str, Callable[[Program, Mapping[str, Tensor], Tensor, Tensor, Places], dict[str, Tensor]]] = {
    "conductance": conductance,
    "deeplift": deeplift,
    "ablation": ablation,
}


def importance(
    program: Program,
    state: State | Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor | None,
    kind: Kind,
    *,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
    places: Places | None = None,
) -> dict[str, Tensor]:
    """Per layer, ``sum over images and positions |attribution|`` of each channel (float64, on the CPU).

    images: N x C x H x W as the model takes them. labels: N classes, whose logits are attributed
    (``uniform`` needs none). places: by name, a value of the program and the dimension of its channels; all
    layers' pre-activations for None, with a batch norm that follows directly: channels are dimension 1 of a
    convolution's value and the last of a linear layer's. Sums of several hospitals add up; a score is their
    sum over the number of images, plus 1e-8, which keeps it positive.

    - ``uniform``: one an image, so that every score is 1;
    - ``conductance``: Dhamdhere et al., arXiv 1805.12233, from a black image;
    - ``deeplift``: the rescale rule of Shrikumar et al., arXiv 1704.02685, from a black image;
    - ``ablation``: how far the logit moves when the channel is zeroed everywhere, one forward pass a channel
      (the program of Neuron Interpolation: one position at a time).

    A black image is zero as the model takes it, after normalisation. Raises FedMergeError where labels are
    missing or do not fit, and where ``deeplift`` meets an operation it has no rule for.
    """
    places = layer_places(program) if places is None else places
    if kind == "uniform":
        return {
            name: torch.full((width(node, dim),), float(len(images)), dtype=torch.float64)
            for name, (node, dim) in places.items()
        }
    if labels is None or len(labels) != len(images):
        given = "no labels were" if labels is None else f"{len(labels)} labels were"
        raise FedMergeError(
            f"importance by {kind} needs the class of each fusion image, but {given} given for {len(images)} "
            "images: pass labels=, or take attribution: uniform."
        )
    values = program.values(state, device)
    sums = {name: torch.zeros(width(node, dim), dtype=torch.float64) for name, (node, dim) in places.items()}
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        found = _RULES[kind](program, values, x.to(device), y.to(device), places)
        for name, part in found.items():
            sums[name] += part.cpu()
    return sums


def layer_places(program: Program) -> dict[str, tuple[Node, int]]:
    """By layer, the operation that makes its pre-activation and the dimension of its channels."""
    return {layer.name: (layer.output, -1 if layer.convolution is None else 1) for layer in program.layers}


def width(node: Node, dim: int) -> int:
    """How many channels a value has along ``dim``."""
    return int(node.meta["val"].shape[dim])


def normalise(scores: Mapping[str, Tensor], how: Normalisation = "mean1") -> dict[str, Tensor]:
    """Scores of one model, each layer for itself: as they are, of sum one, or of mean one.

    As they are, a model with larger logits dominates the others; ``sum1`` and ``mean1`` give all models the
    same say, and ``mean1`` leaves uniform scores at one.
    """
    if how == "none":
        return dict(scores)
    return {name: s / (s.sum() if how == "sum1" else s.mean()) for name, s in scores.items()}
