"""Which entries of a model stay in the hospital, while the rest is shared."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import find_head, group_of
from fedmerge.models.meta import on_meta
from fedmerge.models.zoo import ModelSpec, build

Personal = Literal["none", "norms", "head"]


def personal_entries(spec: ModelSpec, personal: Personal) -> tuple[str, ...]:
    """Return the names of the entries of a network's state that stay in the hospital.

    norms: weights, biases, running statistics and counters of its batch-norm layers (FedBN, arXiv
    2102.07623); group and layer norms are shared like any other layer. head: the layer that turns features
    into logits (``fedmerge.models.heads``; FedPer, arXiv 1912.00818). Raises FedMergeError where the network
    has no batch norm, or no head that can be found.
    """
    plain = spec.untrained()
    return _entries(plain.model_dump_json(), personal)


def parameters_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of a network's parameters, which have a control variate."""
    return _parameters(spec.untrained().model_dump_json())


@lru_cache(maxsize=8)
def _parameters(spec: str) -> tuple[str, ...]:
    with on_meta():
        return tuple(name for name, _ in build(ModelSpec.model_validate_json(spec), 0).named_parameters())


@lru_cache(maxsize=8)
def _entries(spec: str, personal: Personal) -> tuple[str, ...]:
    if personal == "none":
        return ()
    known = ModelSpec.model_validate_json(spec)
    model = build(known, 0)
    if personal == "head":
        head = find_head(model, torch.zeros(2, known.in_channels, known.image_size, known.image_size))
        return tuple(key for key in model.state_dict() if group_of(key, head) == "head")
    layers = {name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    found = tuple(key for key in model.state_dict() if key.rpartition(".")[0] in layers)
    if not found:
        raise FedMergeError(
            f"personal: norms keeps batch-norm layers in the hospitals, but model '{known.name}' has none: "
            "choose a model with batch norm, personal: head, or personal: none."
        )
    return found
