"""Which convolutions of a network are merged, and which batch norm reads each of them."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError

LayerKind = Literal["all", "spatial", "block-conv2"]

PAPER_FRACTION = 10 / 16
"""VGG-19 as published: the first 10 of its 16 convolutions are left alone."""


def select_convs(model: nn.Module, kind: LayerKind, skip: int | float | None) -> dict[str, nn.Conv2d]:
    """The convolutions to merge, by module name, in definition order.

    kind "all": every Conv2d. "spatial": without 1x1 kernels and without the convolutions of shortcuts.
    "block-conv2": the second convolution of each residual block, that is ``conv2`` of every sub-module
    that has both a ``conv1`` and a ``conv2`` (torchvision's names). Grouped and depthwise convolutions
    and those with a single filter are in no list.

    skip: how many of that list, from its start, are left alone: a count (int), or a fraction of the
    list in [0, 1) (float), rounded down; ``None`` is the fraction 10/16. Definition order is the order
    of ``model.named_modules()``, which is the forward order in all common networks.

    Raises FedMergeError where nothing is left to merge.
    """
    convs = {name: conv for name, conv in _of_kind(model, kind).items() if _mergeable(conv)}
    if not convs:
        others = [
            each for each in get_args(LayerKind) if any(map(_mergeable, _of_kind(model, each).values()))
        ]
        advice = f"set layers to {' or '.join(map(repr, others))}, or " if others else ""
        raise FedMergeError(
            f"InMerge finds no convolution of the kind layers='{kind}' in {type(model).__name__}: "
            f"{advice}train without InMerge."
        )
    fraction = PAPER_FRACTION if skip is None else skip
    first = fraction if isinstance(fraction, int) else math.floor(fraction * len(convs))
    if first >= len(convs):
        raise FedMergeError(
            f"InMerge with skip={skip} leaves nothing to merge: {type(model).__name__} has {len(convs)} "
            f"convolutions of the kind layers='{kind}'; set skip to at most {len(convs) - 1}, "
            "or to a fraction such as 0.6."
        )
    return dict(list(convs.items())[first:])


def following_batch_norm(model: nn.Module, name: str) -> _BatchNorm | None:
    """The batch norm defined right after convolution ``name`` in the same parent module, or None."""
    parent_name, _, child = name.rpartition(".")
    siblings = list(model.get_submodule(parent_name).named_children())
    position = [sibling for sibling, _ in siblings].index(child)
    following = siblings[position + 1][1] if position + 1 < len(siblings) else None
    conv = siblings[position][1]
    if isinstance(following, _BatchNorm) and following.num_features == conv.out_channels:
        return following
    return None


def _of_kind(model: nn.Module, kind: LayerKind) -> dict[str, nn.Conv2d]:
    modules = dict(model.named_modules())
    convs = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    if kind == "spatial":
        return {
            name: conv for name, conv in convs.items() if conv.kernel_size != (1, 1) and not _shortcut(name)
        }
    if kind == "block-conv2":
        return {name: conv for name, conv in convs.items() if _is_second_of_block(name, convs)}
    return convs


def _is_second_of_block(name: str, convs: dict[str, nn.Conv2d]) -> bool:
    block, _, child = name.rpartition(".")
    return bool(block) and child == "conv2" and f"{block}.conv1" in convs


def _shortcut(name: str) -> bool:
    return any(part in ("downsample", "shortcut") for part in name.split("."))


def _mergeable(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.out_channels >= 2
