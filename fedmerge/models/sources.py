"""Check that models agree in what no merge averages: a merged model may then take it from any of them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import kinds, tied_entries
from fedmerge.models.state import State, check_fixed

_INTERNAL = {*vars(nn.Module()), "parametrizations", "_is_full_backward_hook", "_compiled_call_impl"}
_OF_TORCH = ("_is_torch_", "_dynamo_")  # marks that torch.compile leaves
_WIDTHS = (int, tuple, list, torch.Size)  # types that a layer's width may have
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


def check_sources(names: Sequence[str], models: Sequence[nn.Module], *, any_width: bool = False) -> None:
    """Raise FedMergeError where models differ in what is not averaged, so that a merge would have to choose.

    That is: the modules they are made of and their kinds, plain attributes (numbers, texts, tensors, arrays,
    functions with what they hold, and tuples, lists, dicts and dataclasses of them), buffers that are not
    saved, and extra state. Modes (``training``), devices, hooks and other objects are not compared.
    any_width: integers, and tensors of other shapes, may differ, as they do in layers of other widths. Models
    under a reparametrisation are compared as ``plain`` gives them.
    """
    first = dict(_state(models[0]))
    for name, model in zip(names[1:], models[1:], strict=True):
        if model is models[0]:
            continue
        other = dict(_state(model))
        for place in (*first, *(place for place in other if place not in first)):
            if place not in first or place not in other:
                has, lacks = (names[0], name) if place in first else (name, names[0])
                raise _differ(place, has, "there", lacks, "not there")
            if not _same(first[place], other[place], any_width):
                raise _differ(place, names[0], _shown(first[place]), name, _shown(other[place]))


def check_states(names: Sequence[str], states: Sequence[State], template: nn.Module) -> None:
    """Raise FedMergeError where states differ in what is not summed, or in what ``template`` ties."""
    first = states[0]
    fixed = [key for key, kind in kinds(first, names[0]).items() if kind == "fixed"]
    tied = tied_entries(template)
    for name, state in zip(names, states, strict=True):
        for key in fixed:
            if key in state and first[key].shape == state[key].shape:
                check_fixed(key, names[0], first[key], name, state[key])
        for key, other in tied.items():
            if key in state and other in state and not torch.equal(state[key], state[other]):
                raise FedMergeError(
                    f"'{other}' and '{key}' are one (tied) tensor in the model to be made, but differ in "
                    f"'{name}': tie them in all models, or in none."
                )


def _differ(place: str, first: str, one: str, name: str, other: str) -> FedMergeError:
    return FedMergeError(
        f"'{place}' is {one} in '{first}' and {other} in '{name}': it is not averaged, so a merged model "
        "would have to take one of them. Make it the same in all models, or pass "
        "into=, a model that has what the merged one shall have."
    )


def _state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a model holds besides its saved tensors, each with its place in the model."""
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for path, module in model.named_modules():
        yield path or "the model", type(module)
        prefix = f"{path}." if path else ""
        for name, value in vars(module).items():
            if name not in _INTERNAL and not name.startswith(_OF_TORCH):
                yield prefix + name, _unregistered(value, registered)
        for name in sorted(module._non_persistent_buffers_set):
            yield prefix + name, module._buffers.get(name)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield f"{prefix}extra state", module.get_extra_state()


class _Registered:
    """Stands for a parameter or buffer that an attribute also holds, as in recurrent layers."""


def _unregistered(value: Any, registered: set[int]) -> Any:
    if isinstance(value, Tensor):
        return _Registered() if id(value) in registered else value
    if type(value) in (list, tuple):
        return type(value)(_unregistered(part, registered) for part in value)
    if type(value) is dict:
        return {key: _unregistered(part, registered) for key, part in value.items()}
    return value


def _same(one: Any, other: Any, any_width: bool) -> bool:
    if one is other or isinstance(one, _Registered) or isinstance(other, _Registered):
        return type(one) is type(other)
    if isinstance(one, type) and isinstance(other, type):
        return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (any_width and one.shape != other.shape) or _same_tensors(one, other)
    if any_width and isinstance(one, _WIDTHS) and isinstance(other, _WIDTHS) and not isinstance(one, bool):
        return True
    if isinstance(one, np.ndarray | np.generic) and isinstance(other, np.ndarray | np.generic):
        return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind in "fc"))
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, _PLAIN) or isinstance(other, _PLAIN):
        return bool(one == other) or (one != one and other != other)
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        return one.__code__ == other.__code__ and _same(_bound(one), _bound(other), any_width)
    if isinstance(one, partial) and isinstance(other, partial):
        return all(_same(a, b, any_width) for a, b in zip(_given(one), _given(other), strict=True))
    if isinstance(one, types.MethodType) and isinstance(other, types.MethodType):
        return one.__func__.__code__ == other.__func__.__code__
    if isinstance(one, types.BuiltinFunctionType) and isinstance(other, types.BuiltinFunctionType):
        return bool(one == other)
    return _same_parts(one, other, lambda a, b: _same(a, b, any_width))


def _bound(function: types.FunctionType) -> list[Any]:
    """The values that a function holds: defaults and its closure's; of functions in it the code alone."""
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    values = []
    for cell in closure.values():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            values.append(None)
    plain = [v.__code__.co_code if isinstance(v, types.FunctionType) else v for v in values]
    return [function.__defaults__, function.__kwdefaults__, plain]


def _given(call: partial[Any]) -> tuple[Any, ...]:
    return call.func, call.args, call.keywords


def _same_parts(one: Any, other: Any, same: Callable[[Any, Any], bool]) -> bool:
    if type(one).__qualname__ != type(other).__qualname__:
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return bool(one == other)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return True


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = one.detach(), other.detach().to(one.device)
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"a {value.__name__}"
    if isinstance(value, Tensor) and value.numel() > 4:
        return f"one tensor of shape {tuple(value.shape)}"
    text = " ".join(repr(value.tolist() if isinstance(value, Tensor) else value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
