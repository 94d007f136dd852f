"""The kind of each entry of a model's state, which decides what a merge may do with it.

    mean       a real or complex weight (or other floating-point buffer): summed by every method
    statistic  a batch norm's running mean or variance: merged by the run's batch-norm policy
    counter    ``num_batches_tracked``: copied from the first model
    fixed      other integers and booleans (an index, a table): must be equal in all models

Everything else is refused by name: quantised, sparse and float8 tensors, tensors without numbers (lazy,
meta), tensor subclasses, and, where only a state dict is at hand, what a reparametrisation made of a weight
(``weight_orig``, ``parametrizations.``): that needs the network, see ``fedmerge.models.plain``. What an entry
is follows from its name and dtype alone, so files without a network are merged as modules are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError

Kind = Literal["mean", "statistic", "counter", "fixed"]

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
COUNTER = "num_batches_tracked"
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def kinds(state: Mapping[str, Any], name: str = "the model") -> dict[str, Kind]:
    """Return the kind of each entry of a state dict, by key; ``name``: the model's, for the error.

    Raises FedMergeError naming the first entry for which no arithmetic is known.
    """
    _refuse_reparametrised(state, name)
    statistics = {key for pair in running_pairs(state) for key in pair}
    found: dict[str, Kind] = {}
    for key, value in state.items():
        reason = unmergeable(value)
        if reason:
            raise FedMergeError(f"'{key}' of '{name}' cannot be merged: it is {reason}.")
        if value.dtype in _WHOLE:
            found[key] = "counter" if key.rpartition(".")[2] == COUNTER else "fixed"
        else:
            found[key] = "statistic" if key in statistics else "mean"
    return found


def unmergeable(value: object) -> str | None:
    """Return why no arithmetic is possible with an entry, as the end of a sentence, or None."""
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        return f"no tensor but a {kind} (is the model quantised?); give the model in floating point"
    if nn.parameter.is_lazy(value):
        return "not initialised yet; run the model on one batch first"
    if value.is_meta:
        return "on the meta device and holds no numbers; load the weights first"
    if value.is_quantized:
        return f"quantised ({_name(value)}); give the model in floating point"
    if value.layout != torch.strided or value.is_nested:
        return f"not dense ({str(value.layout).removeprefix('torch.')}); call to_dense() first"
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
        return f"a {type(value).__name__}, a tensor of another kind; give ordinary tensors"
    if value.dtype not in (*REAL, *COMPLEX, *_WHOLE):
        return f"of dtype {_name(value)}, for which no arithmetic is known; convert the model to float32"
    return None


def entries(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state dict by key, detached, in its order; extra state is left out.

    They share the model's memory. Quantised modules keep other things than tensors there: these are left in,
    so that :func:`kinds` can name them.
    """
    state = model.state_dict(keep_vars=True)
    return {
        key: value if not isinstance(value, Tensor) or nn.parameter.is_lazy(value) else value.detach()
        for key, value in state.items()
        if key.rpartition(".")[2] != "_extra_state"
    }


def running_pairs(keys: Iterable[str]) -> list[tuple[str, str]]:
    """The (running_mean, running_var) key pairs of batch norm that stand under one prefix."""
    present = dict.fromkeys(keys)
    found = []
    for key in present:
        prefix, _, last = key.rpartition(".")
        partner = f"{prefix}.running_var" if prefix else "running_var"
        if last == "running_mean" and partner in present:
            found.append((key, partner))
    return found


def tied_entries(model: nn.Module) -> dict[str, str]:
    """Return, by key, for each entry that is the tensor of an earlier entry, the earlier key."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True).items()
    found = {key: first.setdefault(id(value), key) for key, value in state if isinstance(value, Tensor)}
    return {key: other for key, other in found.items() if key != other}


def refuse_complex(state: Mapping[str, Tensor], method: str) -> None:
    """Raise FedMergeError naming the first complex entry: ``method`` compares numbers, or differentiates."""
    for key, value in state.items():
        if value.is_complex():
            raise FedMergeError(
                f"'{key}' is complex, and {method} is defined for real weights alone: use mean, a soup or an "
                "ensemble, or keep real and imaginary part as two real weights."
            )


def _refuse_reparametrised(state: Mapping[str, Any], name: str) -> None:
    for key in state:
        what = _reparametrised(key, state)
        if what:
            raise FedMergeError(
                f"'{key}' of '{name}' is a part of {what}, and not a weight: its network is needed to merge "
                "it. Merge the modules with fedmerge.merge, or take the reparametrisation away before saving "
                "(torch.nn.utils.parametrize.remove_parametrizations, prune.remove, ...)."
            )


def _reparametrised(key: str, state: Mapping[str, Any]) -> str | None:
    """Return the reparametrisation that an entry belongs to, as far as names and shapes show it, or None."""
    if ".parametrizations." in f".{key}":
        return "a parametrisation"
    stem, sign, last = key.rpartition("_")
    if not sign or stem in state:
        return None
    if last == "orig" and f"{stem}_mask" in state:
        return "pruning"
    if last == "orig" and f"{stem}_u" in state:
        return "a spectral norm"
    if last == "g" and f"{stem}_v" in state and _is_norm_of(state[key], state[f"{stem}_v"]):
        return "a weight norm"
    return None


def _is_norm_of(g: Any, v: Any) -> bool:
    if not isinstance(g, Tensor) or not isinstance(v, Tensor):
        return False
    kept = [size for size in g.shape if size != 1]
    return v.ndim > 0 and (g.ndim == 0 or (g.ndim == v.ndim and len(kept) <= 1 and g.shape != v.shape))


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
