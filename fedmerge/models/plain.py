"""Reparametrised weights: what a network computes with, and how to put a merged weight back.

A weight under ``weight_norm``, ``spectral_norm``, ``orthogonal``, pruning or a parametrisation of one's own
is computed from other tensors, and these are not unique: v and 2 v of a weight norm are one weight, and the
mean of two of them is not the mean of the weights. So the effective weight is merged, whatever the method:
:func:`plain` gives a network that holds it as an ordinary parameter, and :func:`dressed` finds tensors of the
reparametrisation that give the merged weight again, and checks that they do. What cannot hold it is refused
by name. Of a weight W that was merged,

- weight norm (old and new) becomes v = W, g = |W|;
- pruning becomes the weight W with a mask over all entries that are not zero, or that the first model keeps;
- a spectral norm (old and new) W / s with s the largest singular value, and u, v of W: norm 1, as it says;
- ``orthogonal`` U V^T of W = U S V^T, the nearest such matrix; that of a mean is the chordal mean;
- any other parametrisation what its ``right_inverse`` gives, or W itself where it has none.

A spectral norm and ``orthogonal`` change W, so methods that fit a network to images cannot have them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fedmerge.errors import FedMergeError
from fedmerge.models.copies import faithful, fill

_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


@dataclass(frozen=True)
class Reparametrised:
    """A weight that is computed from others: its module, its name there, its key, and what computes it."""

    module: nn.Module
    name: str
    key: str
    by: Any

    @property
    def words(self) -> str:
        """The type of what computes the weight, for messages."""
        parts = self.by if isinstance(self.by, parametrize.ParametrizationList) else [self.by]
        return ", ".join(type(part).__name__.lstrip("_") for part in parts)


def reparametrised(model: nn.Module) -> list[Reparametrised]:
    """The weights of a model that are computed from other tensors."""
    return [found for path, module in model.named_modules() for found in _within(path, module)]


def plain(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters are the weights that ``model`` computes with.

    Raises FedMergeError, naming the weight, where several reparametrisations lie on one by hooks.
    """
    copy = faithful(model)
    for found in reparametrised(copy):
        if isinstance(found.by, _HOOKS):
            _remove_hook(found)
    for module in list(copy.modules()):
        if parametrize.is_parametrized(module):
            _remove_parametrisations(module)
    return copy


def dressed(model: nn.Module, state: Mapping[str, Tensor], *, exactly: bool = False) -> nn.Module:
    """A copy of ``model`` in evaluation mode that computes with the weights of a plain ``state``.

    exactly: refuse weights that a reparametrisation would change, as a spectral norm does. Raises
    FedMergeError naming the weight that the reparametrisation cannot hold.
    """
    copy = faithful(model)
    found = reparametrised(copy)
    made = {key for item in found for key in _parts(item)}
    fill(copy, {key: value for key, value in state.items() if key not in {item.key for item in found}}, made)
    for item in found:
        _assign(item, state[item.key], exactly)
    return copy


def _within(path: str, module: nn.Module) -> Iterator[Reparametrised]:
    prefix = f"{path}." if path else ""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _HOOKS):
            name = str(hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name)
            yield Reparametrised(module, name, prefix + name, hook)
    if parametrize.is_parametrized(module):
        for name, by in module.parametrizations.items():  # type: ignore[operator, union-attr]
            yield Reparametrised(module, name, prefix + name, by)


def _parts(item: Reparametrised) -> list[str]:
    """The keys of the tensors that a weight is computed from."""
    if isinstance(item.by, _HOOKS):
        return [f"{item.key}_{end}" for end in ("orig", "mask", "u", "v", "g")]
    stem, _, name = item.key.rpartition(".")
    prefix = f"{stem}.parametrizations.{name}." if stem else f"parametrizations.{name}."
    return [prefix + key for key in item.by.state_dict()]


@torch.no_grad()
def _effective(item: Reparametrised) -> Tensor:
    if isinstance(item.by, SpectralNorm):
        value = item.by.compute_weight(item.module, do_power_iteration=False)
    elif isinstance(item.by, WeightNorm):
        value = item.by.compute_weight(item.module)
    elif isinstance(item.by, prune.BasePruningMethod):
        value = item.by.apply_mask(item.module)
    else:
        value = item.by()
    return value.detach().clone()


@torch.no_grad()
def _remove_hook(item: Reparametrised) -> None:
    module, name = item.module, item.name
    try:
        value = _effective(item)
        if isinstance(item.by, SpectralNorm):
            nn.utils.remove_spectral_norm(module, name)
        elif isinstance(item.by, WeightNorm):
            nn.utils.remove_weight_norm(module, name)
        else:
            prune.remove(module, name)
        held = module._parameters[name]
    except (AttributeError, KeyError, ValueError):
        raise FedMergeError(
            f"'{item.key}' is computed by several hooks, {item.words} among them, and cannot be told: remove "
            "them before merging."
        ) from None
    assert held is not None
    held.data = value


@torch.no_grad()
def _remove_parametrisations(module: nn.Module) -> None:
    """Remove all parametrisations of a module and restore its class; the original's class is not touched."""
    lists: Any = module.parametrizations
    values = {name: by().detach().clone() for name, by in lists.items()}
    trained = {name: any(True for _ in by.parameters(recurse=False)) for name, by in lists.items()}
    graded = {name: any(p.requires_grad for p in by.parameters()) for name, by in lists.items()}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if trained[name]:
            setattr(module, name, nn.Parameter(value, requires_grad=graded[name]))
        else:
            module.register_buffer(name, value)


@torch.no_grad()
def _assign(item: Reparametrised, goal: Tensor, exactly: bool) -> None:
    reached = projected(item, goal.detach())
    if exactly and not _close(reached, goal):
        raise FedMergeError(
            f"'{item.key}' is under {item.words}, which would change the weight that this method found: "
            "remove it from the models first (torch.nn.utils.parametrize.remove_parametrizations), or use a "
            "method that averages weights."
        )
    held = next(item.module.parameters(recurse=True)).device
    reached = reached.to(held)
    _set_hook(item, reached) if isinstance(item.by, _HOOKS) else _set_parametrisation(item, reached)
    found = _effective(item)
    if not _close(found, reached):
        raise FedMergeError(
            f"'{item.key}' is computed by {item.words}, which cannot hold the merged weight: give it a "
            "right_inverse that does, or remove the parametrisation from the models before merging "
            "(torch.nn.utils.parametrize.remove_parametrizations)."
        )


def projected(item: Reparametrised, goal: Tensor) -> Tensor:
    """The weight nearest in kind to ``goal`` that the reparametrisation can hold."""
    for part in item.by if isinstance(item.by, parametrize.ParametrizationList) else [item.by]:
        if isinstance(part, SpectralNorm | parametrizations._SpectralNorm):
            size = torch.linalg.vector_norm(_wide(goal), ord=2) if goal.ndim < 2 else _leading(part, goal)[1]
            _refuse_zero(item, size)
            goal = (_wide(goal) / size).to(goal.dtype)
        elif isinstance(part, parametrizations._Orthogonal):
            left, sizes, right = torch.linalg.svd(_wide(goal), full_matrices=False)
            _refuse_zero(item, sizes.min() / sizes.max().clamp(min=1e-300))
            goal = (left @ right).to(goal.dtype)
    return goal


def _refuse_zero(item: Reparametrised, size: Tensor) -> None:
    if not float(size) > 1e-6:
        raise FedMergeError(
            f"the merged weight '{item.key}' is (nearly) singular, so {item.words} is not defined for it: "
            "the models' weights cancel."
        )


def _leading(part: Any, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular vectors of a weight as its spectral norm sees it, and its largest singular value."""
    matrix = weight.movedim(part.dim, 0).flatten(1)
    left, sizes, right = torch.linalg.svd(_wide(matrix), full_matrices=False)
    return left[:, 0], sizes[0], right[0]


def _set_hook(item: Reparametrised, value: Tensor) -> None:
    module, name = item.module, item.name
    if isinstance(item.by, WeightNorm):
        g, v = _norm_and_direction(value, item.by.dim)
        getattr(module, f"{name}_g").copy_(g)
        getattr(module, f"{name}_v").copy_(v)
    else:
        getattr(module, f"{name}_orig").copy_(value)
    if isinstance(item.by, SpectralNorm):
        u, _, v = _leading(item.by, value)
        getattr(module, f"{name}_u").copy_(u)
        getattr(module, f"{name}_v").copy_(v)
    elif isinstance(item.by, prune.BasePruningMethod):
        mask = getattr(module, f"{name}_mask")
        mask.copy_((mask != 0) | (value != 0))
    setattr(module, name, _effective(item))


def _set_parametrisation(item: Reparametrised, value: Tensor) -> None:
    parts = list(item.by)
    if any(not hasattr(part, "right_inverse") for part in parts):
        inverse = value  # a projection, such as a symmetric matrix, gives back what it gave
        if not item.by.is_tensor:
            return
        item.by.original.copy_(inverse)
        return
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)  # orthogonal completes a basis at random
        _try(lambda: item.by.right_inverse(value.clone()))
    for part in parts:
        if isinstance(part, parametrizations._WeightNorm) and len(parts) == 1:
            for name, tensor in zip(
                ("original0", "original1"), _norm_and_direction(value, part.dim), strict=True
            ):
                getattr(item.by, name).copy_(tensor)
        elif isinstance(part, parametrizations._SpectralNorm) and value.ndim > 1:
            u, _, v = _leading(part, value)
            part._u.copy_(u)
            part._v.copy_(v)


def _try(call: Callable[[], None]) -> None:
    """Call a right inverse and ignore its errors: ``dressed`` checks the weight afterwards."""
    try:
        call()
    except (RuntimeError, NotImplementedError, ValueError):
        return


def _norm_and_direction(value: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """g and v of a weight norm; a row of zeros has no direction, so it gets ones, of which g makes zeros."""
    g = torch.norm_except_dim(value, 2, dim)
    return g, torch.where(g == 0, torch.ones_like(value), value)


def _close(found: Tensor, goal: Tensor) -> bool:
    """Whether two weights are equal but for rounding."""
    size = float(goal.abs().max()) if goal.numel() else 0.0
    info = torch.finfo(goal.dtype)
    tolerance = (32 if info.bits >= 32 else 4) * info.eps
    return bool(((found - goal).abs() <= tolerance * max(size, info.tiny)).all())


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
