"""The shapes of a hospital's sums for each request, and their packed form: half of a symmetric matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.merging.neurons.statistics import norms
from fedmerge.merging.neurons.sums import has_offset
from fedmerge.models.graph import Layer, Program

MINIMUM = 16
"""The fewest images over which a hospital gives sums: sums over fewer tell much about each image."""

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
WALKING = ("layer", "fused-moments", "norm-moments")  # requests within a walk through the fused model


def shapes(
    program: Program,
    state: Mapping[str, Tensor],
    models: int,
    kind: str,
    options: Mapping[str, Any],
    mixed: int | None = None,
) -> Shapes:
    """Return the shape of every sum that answers a request, for any images; see ``Statistics``.

    state: of a model of this architecture, for the shapes of its weights. models: number of parents M. mixed:
    rows of ``.mix``, if the request has one. A layer with n channels has n_tot = M n; its input rows have d
    entries, plus one for a constant if it has an offset.
    """
    layers = {layer.name: layer for layer in program.layers}
    n = {name: state[layer.weight].shape[0] for name, layer in layers.items()}
    found: Shapes = {}
    if kind == "outer":
        found = {name: (models * n[name],) * 2 for name in options["layers"]}
    elif kind == "inputs":
        grams = {name: _gram(layer, state, 0) for name, layer in layers.items()}
        found = {f"{m}/{name}": shape for m in range(models) for name, shape in grams.items()}
    elif kind == "importance":
        found = {f"{m}/{name}": (n[name],) for m in range(models) for name in layers}
        found |= {f"{m}/images": () for m in range(models)}
    elif kind == "moments":
        found = {f"{m}/{name}": (2, n[name]) for m in range(models) for name in layers}
        found |= {f"rows/{name}": () for name in layers}
    elif kind == "layer":
        found = _layer(layers[options["name"]], state, models * n[options["name"]], mixed)
    elif kind == "fused-moments":
        found = {"moments": (2, n[options["name"]]), "rows": ()}
    elif kind == "norm-moments":
        mean = norms(program)[options["index"]].args[3]
        assert isinstance(mean, Node)
        found = {"moments": (2, state[program.keys[mean.name]].shape[0]), "rows": ()}
    return found | {"images": ()}


def pack(kind: str, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pack sums for a message: on the CPU, symmetric ones (d x d) as their upper half, d (d + 1) / 2."""
    packed = {}
    for key, value in sums.items():
        value = value.detach().cpu()
        whole = not _symmetric(kind, key, tuple(value.shape))
        packed[key] = value if whole else value[_upper(len(value))]
    return packed


def packed_shapes(kind: str, whole: Shapes) -> Shapes:
    """Return the shapes of packed sums."""
    return {
        key: (shape[0] * (shape[0] + 1) // 2,) if _symmetric(kind, key, shape) else shape
        for key, shape in whole.items()
    }


def unpack(kind: str, packed: Mapping[str, Tensor], whole: Shapes) -> dict[str, Tensor]:
    """Unpack sums, the inverse of :func:`pack`; ``whole`` as :func:`shapes` gives them."""
    sums = {}
    for key, value in packed.items():
        if _symmetric(kind, key, whole[key]):
            full = torch.zeros(whole[key], dtype=value.dtype)
            full[_upper(len(full))] = value
            sums[key] = full + full.triu(1).T
        else:
            sums[key] = value
    return sums


def _layer(layer: Layer, state: Mapping[str, Tensor], n_tot: int, mixed: int | None) -> Shapes:
    gram = _gram(layer, state, 1 if has_offset(layer) else 0)
    targets = n_tot if mixed is None else mixed
    cross = gram[:-1] if layer.depthwise else (gram[0], targets)
    found: Shapes = {"gram": gram, "cross": cross, "rows": ()}
    return found if mixed is not None else found | {"outer": (n_tot, n_tot)}


def _gram(layer: Layer, state: Mapping[str, Tensor], offset: int) -> Shape:
    weight = state[layer.weight]
    width = weight[0].numel() + offset
    return (weight.shape[0], width, width) if layer.depthwise else (width, width)


def _symmetric(kind: str, key: str, shape: Shape) -> bool:
    """Check whether a sum is A^T A of one matrix A; a depthwise layer's (c x d x d) are not packed."""
    return len(shape) == 2 and (kind in ("outer", "inputs") or key in ("gram", "outer"))


def _upper(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu_()
