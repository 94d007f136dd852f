"""Faithful copies of a model, and weights put into one."""

from __future__ import annotations

import copy
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)

_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_NOT_ASKED = vars(nn.Module()).keys() - set(_FORWARD_HOOKS) | {"_compiled_call_impl"}

ROUNDING = 1e-5  # of the largest output: sums may depend on how memory is laid out


def several(models: Iterable[Any]) -> list[Any]:
    """Return models as a list. Raises FedMergeError for one network, whose layers may look like models."""
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise FedMergeError(f"models= is one {type(models).__name__}, not several networks: give a list.")
    return list(models)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DataParallel``, ``torch.compile`` and the like, or the model itself."""
    while True:
        inner = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def faithful(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode: the caller's module to the bit, with its own buffers and attributes.

    Also of models that hold tensors with a gradient's history, as old weight norms do. Raises FedMergeError
    for a module that cannot be copied.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise FedMergeError(
            f"the model {type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}): take out what "
            "copy.deepcopy does not take."
        ) from None


def check_self_contained(model: nn.Module, name: str) -> None:
    """Check that no function in a model holds a part of the model from outside, by a closure or a default.

    A copy shares functions with its original, so such a one would run the original's weights in each copy: a
    ``forward`` that was put onto the object, a hook, a function in an attribute. Looked at are forward hooks
    and attributes with the lists, dicts and ``partial`` in them, and what their functions hold; other objects
    are not. Raises FedMergeError naming the model, the function and the part.
    """
    parts: dict[int, str] = {}
    for items in (model.named_modules(), model.named_parameters(), model.named_buffers()):
        parts |= {id(part): f"'{place}'" if place else "the model" for place, part in items}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _NOT_ASKED:
                continue
            held = next((parts[id(v)] for f in _functions(value) for v in _held(f) if id(v) in parts), None)
            if held is not None and type(module).__name__ == "OptimizedModule":
                raise FedMergeError(
                    f"'{path}' in '{name}' is compiled by itself, so a copy would run the weights of the "
                    "original: give the module inside. Keys have '_orig_mod.' for it; that and 'module.' are "
                    "taken out where they are around a whole network."
                )
            if held is not None:
                place = f"{path}.{attribute}" if path else attribute
                raise FedMergeError(
                    f"'{name}' cannot be merged as it is: a function in '{place}' holds {held} itself, so a "
                    "copy would run the weights of the original. Let it take its parts from self, or from "
                    "the module that a hook is given."
                )


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """The functions in an attribute that a deep copy shares with its original."""
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, types.MethodType):
        yield from _functions(value.__func__)
    elif isinstance(value, partial):
        yield from _functions([value.func, *value.args, *value.keywords.values()])
    elif isinstance(value, Mapping):
        yield from _functions([*value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _functions(part)


def _held(function: types.FunctionType) -> Iterator[Any]:
    """All values that a function holds by its closure and defaults, those of functions in it included."""
    left: list[Any] = [function]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, types.FunctionType):
            left += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            for cell in value.__closure__ or ():
                try:
                    left.append(cell.cell_contents)
                except ValueError:  # not filled yet
                    continue
        elif isinstance(value, types.MethodType):
            left += [value.__func__, value.__self__]
        elif isinstance(value, partial):
            left += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left += value


@torch.no_grad()
def fill(model: nn.Module, state: Mapping[str, Tensor], left: Collection[str] = ()) -> nn.Module:
    """Copy a state into a model's tensors, in place; extra state and tensors of no key stay as they are.

    left: keys that stay as they are. Raises FedMergeError where a key is missing or unknown, or where two
    keys of one (tied) tensor are given different values.
    """
    held = {
        key: value
        for key, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and key.rpartition(".")[2] != "_extra_state" and key not in left
    }
    for key in sorted(held.keys() ^ state.keys()):
        raise FedMergeError(f"the state and {type(model).__name__} do not fit: only one of them has '{key}'.")
    written: dict[int, str] = {}
    for key, target in held.items():
        first = written.setdefault(id(target), key)
        if first != key and not torch.equal(state[first].to(target), state[key].to(target)):
            raise FedMergeError(
                f"'{first}' and '{key}' are one (tied) tensor in {type(model).__name__}, but were given two "
                "values: tie them in all models, or in none."
            )
        target.copy_(state[key])
    return model


@torch.no_grad()
def check_copy(original: nn.Module, made: nn.Module, images: Tensor, name: str = "the model") -> None:
    """Check that a copy gives its original's outputs on (the first two) ``images``, but for rounding.

    Both are run in evaluation mode, from the same random state. Raises FedMergeError naming the model and
    the largest difference.
    """
    expected, found = _answer(original, images, name), _answer(made, images, name)
    gap = _largest(expected - found.to(expected))
    if found.shape == expected.shape and gap <= _rounding(expected) * _largest(expected):
        return
    raise FedMergeError(
        f"a copy of '{name}' does not answer as '{name}' itself does: its outputs differ by {gap:.3g} on two "
        "images. It holds something that is not copied with it: keep it in a buffer or an attribute."
    )


def _rounding(answer: Tensor) -> float:
    """Return by what part of the largest output a copy may differ: more in half precision and TF32."""
    least = ROUNDING if answer.device.type == "cpu" else 100 * ROUNDING
    return max(least, 8 * torch.finfo(answer.dtype).eps) if answer.is_floating_point() else least


def _answer(model: nn.Module, images: Tensor, name: str) -> Tensor:
    device = next((value.device for value in model.parameters()), images.device)
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: the state of others is not restored
        return logits_of(model(images[:2].to(device)), f"'{name}'")


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num().abs().max()) if values.numel() else 0.0
