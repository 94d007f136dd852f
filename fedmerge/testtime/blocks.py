"""Parts of an encoder that get coefficients of their own: blocks, or single layers, in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import group_of
from fedmerge.models.modes import evaluating

Granularity = Literal["whole", "block", "layer"]


@torch.no_grad()
def grouping(
    model: nn.Module, head: str, granularity: Granularity, example: Tensor
) -> tuple[list[str], Callable[[str], str]]:
    """Return the encoder's groups in the order they run, and the group of a state-dict key.

    ``whole``: one group, ``"encoder"``. ``layer``: a group begins at each module that holds a weight of two
    or more dimensions, and what runs after it (norms, biases) belongs to it. ``block``: the module's children
    one level down, containers that are the only child with parameters opened first. The head is the group
    ``"head"``. ``example``: a batch, run once to see the order. Raises FedMergeError for another name.
    """
    if granularity == "whole":
        return ["encoder"], lambda key: group_of(key, head)
    if granularity not in ("block", "layer"):
        raise FedMergeError(f"unknown granularity '{granularity}'. Allowed: whole, block, layer.")
    owner: dict[str, str] = {}
    if granularity == "layer":
        current = ""
        for name in _run_order(model, _owners(model, head), example):
            begins = any(p.ndim > 1 for p in model.get_submodule(name).parameters(recurse=False))
            current = name if begins or not current else current
            owner[name] = current
    else:
        blocks = _blocks(model, head)
        for name in _run_order(model, _owners(model, head), example):
            owner[name] = next((block for block in blocks if _inside(name, block)), name)
    groups = list(dict.fromkeys(owner.values()))

    def group(key: str) -> str:
        return "head" if group_of(key, head) == "head" else owner.get(key.rpartition(".")[0], groups[0])

    return groups, group


def _owners(model: nn.Module, head: str) -> list[str]:
    """Modules of the encoder that hold themselves what is merged: weights, and saved buffers with a point."""
    return [
        name
        for name, module in model.named_modules()
        if any(map(torch.is_floating_point, _saved(module))) and group_of(f"{name}.", head) == "encoder"
    ]


def _saved(module: nn.Module) -> list[Tensor]:
    own = {**module._parameters, **module._buffers}
    return [v for name, v in own.items() if v is not None and name not in module._non_persistent_buffers_set]


def _blocks(model: nn.Module, head: str) -> list[str]:
    """The children with parameters, one level down from the first module that has several."""
    prefix = ""
    while True:
        module = model.get_submodule(prefix)
        children = [
            f"{prefix}.{name}" if prefix else name
            for name, child in module.named_children()
            if any(True for _ in child.parameters())
        ]
        children = [name for name in children if group_of(f"{name}.", head) == "encoder"]
        if len(children) != 1:
            return children or [prefix]
        prefix = children[0]


def _inside(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")


def _run_order(model: nn.Module, names: list[str], example: Tensor) -> list[str]:
    """The names in the order in which the modules first run; those that never run as such come first."""
    order: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in names
    ]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    ran = list(dict.fromkeys(order))
    return [name for name in names if name not in ran] + ran
