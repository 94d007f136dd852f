"""Which convolutions of a network can be merged, their weights, and which batch norms read them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from fedmerge.errors import FedMergeError

LayerKind = Literal["all", "spatial", "block-conv2"]

PAPER_FRACTION = 10 / 16
"""VGG-19 as published: the first 10 of its 16 convolutions are left alone."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def select_convs(model: nn.Module, kind: LayerKind, skip: int | float | None) -> dict[str, nn.Conv2d]:
    """The convolutions to merge, by module name, in definition order.

    kind "all": every Conv2d. "spatial": without 1x1 kernels and without the convolutions of shortcuts.
    "block-conv2": the second convolution of each residual block, that is ``conv2`` of every sub-module
    that has both a ``conv1`` and a ``conv2`` (torchvision's names). Grouped and depthwise convolutions
    and those with a single filter are in no list; one that is used in several places, or whose weight is,
    is in it once, where it is first.

    skip: how many of that list, from its start, are left alone: a count (int), or a fraction of the
    list in [0, 1) (float), rounded down; ``None`` is the fraction 10/16. Definition order is the order
    of ``model.named_modules()``, which is the forward order in all common networks.

    Raises FedMergeError where nothing is left to merge.
    """
    found = {name: conv for name, conv in _of_kind(model, kind).items() if _mergeable(conv)}
    first_of = {id(conv._parameters.get("weight", conv)): name for name, conv in reversed(found.items())}
    convs = {name: conv for name, conv in found.items() if name in first_of.values()}
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
    if not name:
        return None
    parent_name, _, child = name.rpartition(".")
    siblings = model.get_submodule(parent_name)._modules  # a module that is used twice stands there twice
    position = list(siblings).index(child)
    conv, following = [*siblings.values(), None][position : position + 2]
    assert isinstance(conv, nn.Conv2d)
    if isinstance(following, _BatchNorm) and following.num_features == conv.out_channels:
        return following
    return None


def places(model: nn.Module, conv: nn.Conv2d) -> list[str]:
    """Every name under which ``conv``, or another convolution with its very weight, is used in the model."""
    every = model.named_modules(remove_duplicate=False)
    convs = [(name, module) for name, module in every if isinstance(module, nn.Conv2d)]
    return [name for name, module in convs if module._parameters.get("weight") is conv.weight]


def own(module: nn.Module, name: str, key: str) -> Tensor | None:
    """The parameter ``key`` ("weight", "bias") of module ``name``, to be changed in place; None for none.

    Raises FedMergeError where ``module`` uses another tensor, made from others before each forward pass: by a
    parametrisation, weight norm or spectral norm (new or old) or pruning. A change of it would be lost, and
    the same step on what it is made from is another one than eq. 2: directions and lengths mix apart, a norm
    or a mask is made anew. Also for types without a cosine of real numbers, and weights not yet there.
    """
    value = module._parameters.get(key)
    what = f"InMerge cannot merge the {key} of '{name}'"
    if key not in module._parameters:
        raise FedMergeError(
            f"{what}: it is no parameter, but made from others at every forward pass, by "
            f"{_maker(module, key)}, so a merge would be lost. Make it plain again before InMerge "
            "(torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, remove_spectral_norm, "
            "prune.remove), or set skip so that it is left alone."
        )
    if value is None:
        return None
    if isinstance(value, UninitializedParameter) or value.device.type == "meta":
        raise FedMergeError(f"{what}: it has no values yet. Run the model once, or load its weights, before.")
    if type(value.data) is not Tensor or value.dtype not in DTYPES:
        raise FedMergeError(
            f"{what}: it is a {type(value.data).__name__} of type {value.dtype}. It merges plain tensors of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
        )
    return value


def _maker(module: nn.Module, key: str) -> str:
    if parametrize.is_parametrized(module, key):
        return ", ".join(type(each).__name__ for each in module.parametrizations[key])  # type: ignore[index]
    hooks = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
    return ", ".join(hooks) or "the model"


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
