"""The places in a model where its tensors live, by state-dict key."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn


def slots(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each tensor of a model lives; non-persistent buffers too, under their would-be key."""
    return {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def tensors(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a model by state-dict key, or a state dict as it is."""
    if not isinstance(source, nn.Module):
        return dict(source)
    return {
        key: getattr(module, name)
        for key, (module, name) in slots(source).items()
        if name not in module._non_persistent_buffers_set
    }


def hollow(module: nn.Module, tied: Set[str], prefix: str, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """A shallow copy with empty tensors where entries are tied to a row; one for each module."""
    if module not in made:
        twin = made[module] = module.__class__.__new__(module.__class__)
        twin.__dict__.update(module.__dict__)
        for kind, empty in (("_parameters", nn.Parameter(torch.empty(0))), ("_buffers", torch.empty(0))):
            held = {name: empty if prefix + name in tied else v for name, v in getattr(module, kind).items()}
            twin.__dict__[kind] = held
        twin.__dict__["_modules"] = {
            name: child if child is None else hollow(child, tied, f"{prefix}{name}.", made)
            for name, child in module._modules.items()
        }
    return made[module]
