"""A key of what a module's operations depend on: modules with one key run the same operations.

The key holds, for every module inside, its class and its plain attributes, and of every tensor its name,
shape and dtype; of tensors outside the state dict the content, too, because a program holds them. What is not
known to be decided by such values (a hook, a closure, a method set on an instance, an object of an unknown
class) gives no key, and then nothing is remembered.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, type),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout),
)
OWN = frozenset(vars(nn.Module()))
"""What ``nn.Module`` itself keeps in every instance; of it only hooks change what a module computes."""


class Unknown(Exception):
    """A part whose effect on the operations cannot be told from its value."""


def fingerprint(model: nn.Module) -> Hashable | None:
    """The key of a module's operations in evaluation mode; None where there is none (see above)."""
    try:
        return tuple(
            (name, type(module), _attributes(module))
            for name, module in model.named_modules(remove_duplicate=False)
        ), _tensors(model)
    except Unknown:
        return None


def _attributes(module: nn.Module) -> Hashable:
    own = vars(module)
    if any(value for key, value in own.items() if key in OWN and key.endswith("_hooks")):
        raise Unknown
    return tuple((key, _value(value)) for key, value in sorted(own.items()) if key not in OWN)


def _tensors(model: nn.Module) -> Hashable:
    """Names, shapes, dtypes and devices; which names are one tensor; content of what is not in the state."""
    saved = model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found |= dict(model.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    return tuple(
        (
            key,
            tuple(value.shape),
            value.dtype,
            value.device.type,
            value.stride(),
            first.setdefault(id(value), key),
            None if key in saved else _content(value),
        )
        for key, value in found.items()
    )


def _value(value: Any) -> Hashable:
    """Return a key that is equal for equal values alone: 1, 1.0 and True differ."""
    if isinstance(value, PLAIN):
        return type(value), repr(value) if isinstance(value, float | complex) else value
    if isinstance(value, Tensor):
        return Tensor, tuple(value.shape), value.dtype, _content(value)
    if isinstance(value, list | tuple):
        return type(value), tuple(_value(part) for part in value)
    if isinstance(value, dict):
        return dict, tuple((_value(key), _value(part)) for key, part in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_value(part) for part in value)
    if isinstance(value, functools.partial):
        return functools.partial, _value(value.func), _value(value.args), _value(value.keywords)
    if isinstance(value, types.FunctionType) and value.__closure__ is None:
        return types.FunctionType, value
    if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType | None):
        return types.BuiltinFunctionType, value
    raise Unknown


def _content(value: Tensor) -> str:
    if value.is_meta or value.layout is not torch.strided or value.is_quantized:
        raise Unknown
    flat = value.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
