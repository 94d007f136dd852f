"""Faithful copies of a model, and weights put into one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)

ROUNDING = 1e-5  # of the largest output: sums may depend on how memory is laid out


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
