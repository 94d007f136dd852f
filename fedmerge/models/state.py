"""Arithmetic on state dicts: means in float64, and one stated policy for batch-norm statistics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError, unknown
from fedmerge.models.entries import COUNTER, Kind, kinds, running_pairs

State: TypeAlias = dict[str, Tensor]
BatchNormPolicy = Literal["average", "mixture", "first"]
_PIECE = 32_768  # elements that torch handles in one thread: splitting fewer costs more than it saves


def average(
    states: Iterable[State],
    weights: Sequence[float] | None = None,
    *,
    batch_norm: BatchNormPolicy = "mixture",
) -> State:
    """The weighted mean ``sum_m a_m theta_m`` of M state dicts, with ``a = weights / sum(weights)``.

    ``states`` may be a generator: the float64 accumulator and one state are held at a time, whatever M is.
    Weights are any finite numbers with a finite sum other than zero; None means uniform. The mean of a
    model with itself is that model, bit for bit (float32 and narrower, weights not negative).

    What an entry is, ``entries.kinds`` says: weights, real or complex, are summed, ``num_batches_tracked``
    (and any other single integer: a count, as far as states alone show) is copied from the first state, other
    integers and booleans must be equal in all. Batch-norm statistics, mean m and variance v, follow
    ``batch_norm``:

    - ``average``: both are weighted means, a variance not below zero (weights may be);
    - ``mixture``: the moments of the mixture of the models' input distributions (law of total variance),
      ``mean = sum a m`` and ``var = sum a (v + m^2) - mean^2``, not below zero. It is computed around the
      first model's mean, so that close models lose no digits;
    - ``first``: both are copied from the first state.

    Results have the dtypes and devices of the first state and share no memory with any input. Raises
    FedMergeError for an unknown policy, if there is no state, the states are not alike, the weights do not
    fit, an entry cannot be merged, or a weight of finite ones does not fit its dtype (float16: 65,504).
    """
    if weights is not None:
        total_of(weights)  # said before the first model is read
    mean = RunningMean(batch_norm)
    for state in states:
        if weights is not None and mean.count == len(weights):
            raise FedMergeError(
                f"there are more models than weights ({len(weights)}): give one weight a model."
            )
        mean.add(state, 1.0 if weights is None else float(weights[mean.count]))
        del state  # so that it can be freed before the next one is read
    if weights is not None and 0 < mean.count < len(weights):
        raise FedMergeError(
            f"there are {mean.count} models but {len(weights)} weights: give one weight a model."
        )
    return mean.result()


class RunningMean:
    """:func:`average`, one state at a time, for weights that become known with their states."""

    def __init__(self, batch_norm: BatchNormPolicy = "mixture") -> None:
        self._batch_norm = batch_norm
        self._sums: _Accumulator | None = None
        self._weights: list[float] = []

    @property
    def count(self) -> int:
        """How many states were added."""
        return len(self._weights)

    def add(self, state: State, weight: float = 1.0) -> None:
        """Add a state; nothing of it is kept. Raises FedMergeError if it is not like the first."""
        if self._sums is None:
            self._sums = _Accumulator(state, self._batch_norm)
        self._weights.append(weight)
        self._sums.add(state, f"model {self.count}", weight)

    def result(self) -> State:
        """Return the mean; call it once. Raises FedMergeError without a state or with unfit weights."""
        if self._sums is None:
            raise FedMergeError("there is no model to average: give at least one.")
        return self._sums.result(total_of(self._weights))


class _Accumulator:
    """The running sums of :func:`average`: float64, except what is copied from the first state."""

    def __init__(self, first: State, batch_norm: BatchNormPolicy) -> None:
        check_policy(batch_norm)
        pairs = running_pairs(first)
        kept = {key for pair in pairs for key in pair} if batch_norm == "first" else set()
        self.pairs = pairs if batch_norm == "mixture" else []
        self.variances = [] if batch_norm == "first" else [variance for _, variance in pairs]
        self.order = {key: torch.empty_like(value, device="meta") for key, value in first.items()}
        self.dtypes = {key: value.dtype for key, value in first.items()}
        self.copies: State = {}
        self.sums: State = {}
        self.kinds: dict[str, Kind] = kinds(first, "model 1")
        for key, value in first.items():
            if self.kinds[key] in ("mean", "statistic") and key not in kept:
                # Minus zero, because it is the zero that keeps the sign of a minus zero added to it.
                self.sums[key] = torch.full(value.shape, -0.0, dtype=wide(value.dtype), device=value.device)
            else:
                self.copies[key] = value.detach().clone()
        paired = {key for pair in self.pairs for key in pair}
        self.plain = [key for key in self.sums if key not in paired]
        self.centres = {mean: first[mean].detach().to(torch.float64) for mean, _ in self.pairs}

    @torch.no_grad()
    def add(self, state: State, name: str, weight: float) -> None:
        _check_same("model 1", self.order, name, state)
        if weight == 0:
            return
        for key, kind in self.kinds.items():
            if kind == "fixed" and state[key].ndim > 0:
                check_fixed(key, "model 1", self.copies[key], name, state[key])
        for key in self.plain:
            _add_scaled(self.sums[key], state[key], weight)
        for mean, var in self.pairs:
            offset = state[mean].to(torch.float64) - self.centres[mean]
            self.sums[mean].add_(offset, alpha=weight)
            self.sums[var].add_(state[var].to(torch.float64) + offset.square(), alpha=weight)

    @torch.no_grad()
    def result(self, total: float) -> State:
        for value in self.sums.values():
            value.div_(total)
        for mean, var in self.pairs:
            self.sums[var].sub_(self.sums[mean].square())
            centre, offset = self.centres[mean], self.sums[mean]
            self.sums[mean] = torch.where(offset == 0, centre, centre + offset)
        for var in self.variances:
            self.sums[var].clamp_(min=0)
        for key in list(self.sums):
            value, dtype = self.sums.pop(key), self.dtypes[key]
            # Statistics beyond the dtype are left to the model's own check: hostile updates reach here, too.
            self.copies[key] = narrowed(key, value, dtype) if self.kinds[key] == "mean" else value.to(dtype)
        return {key: self.copies[key] for key in self.order}


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which numbers are summed: float64, or complex128 for complex ones."""
    return torch.complex128 if dtype.is_complex else torch.float64


def narrowed(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in the models' dtype. Raises FedMergeError where finite numbers do not fit it."""
    result = value.to(dtype)
    if result.dtype != value.dtype and _overflows(value, result):
        largest = float(value.abs().max())
        raise FedMergeError(
            f"'{key}' of the merged model reaches {largest:.4g}, which does not fit "
            f"{str(dtype).removeprefix('torch.')} (at most {torch.finfo(dtype).max:.4g}): convert the models "
            "to float32, or give smaller weights or a smaller scale."
        )
    return result


def _overflows(value: Tensor, result: Tensor) -> bool:
    return not all_finite(result) and all_finite(value)


def check_fixed(key: str, first: str, reference: Tensor, name: str, value: Tensor) -> None:
    """Raise FedMergeError where two models hold different integers or booleans, which have no mean."""
    if not torch.equal(reference, value.to(reference.device)):
        raise FedMergeError(
            f"'{key}' holds {str(value.dtype).removeprefix('torch.')} values that differ between '{first}' "
            f"and '{name}': they cannot be averaged, and only '{COUNTER}' is copied. Make them the same."
        )


def _add_scaled(total: Tensor, value: Tensor, weight: float) -> None:
    """``total += weight * value``, widened piece by piece in the cache: several times faster than at once."""
    flat, source = total.view(-1), value.reshape(-1)
    piece = _PIECE if value.device.type == "cpu" else max(1, len(flat))
    for start in range(0, len(flat), piece):
        part = slice(start, start + piece)
        flat[part].add_(source[part], alpha=weight)  # in float64, the wider of the two


def check_alike(names: Sequence[str], states: Iterable[State]) -> None:
    """Raise FedMergeError naming two models and the first key, shape or dtype in which they differ."""
    first: tuple[str, State] | None = None
    for name, state in zip(names, states, strict=True):
        if first is None:
            first = (name, state)
        else:
            _check_same(*first, name, state)


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) over the sorted keys with their dtype, shape and bytes."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def non_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The keys that hold a NaN or an infinity."""
    return [
        key
        for key, value in state.items()
        if (value.is_floating_point() or value.is_complex()) and not all_finite(value)
    ]


def all_finite(value: Tensor) -> bool:
    """Whether no entry is NaN or infinite; a finite sum shows it, and is quicker to compute."""
    value = value.detach()
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def check_policy(batch_norm: str) -> None:
    """Raise FedMergeError for a batch-norm policy that is none: it would be taken for another."""
    if batch_norm not in get_args(BatchNormPolicy):
        raise unknown("batch_norm", batch_norm, get_args(BatchNormPolicy))


def total_of(weights: Sequence[float]) -> float:
    """Return the sum of weights. Raises FedMergeError where nothing can be divided by it."""
    try:
        total = math.fsum(weights)
    except (OverflowError, ValueError):  # beyond a float, or infinities of both signs
        total = math.nan
    if not all(map(math.isfinite, weights)) or not math.isfinite(total) or total == 0:
        raise FedMergeError(
            f"the weights {[float(weight) for weight in weights]} cannot be used: "
            "each must be finite, and their sum finite and not zero."
        )
    return total


def without_wrappers(state: Mapping[str, Tensor]) -> State:
    """Return a state with its keys freed of ``DataParallel``'s (``module.``) and ``torch.compile``'s prefixes
    (``_orig_mod.``, at any depth)."""
    prefix = "module." if state and all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix).replace("_orig_mod.", ""): value for key, value in state.items()}


def _wrapped(reference: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if without_wrappers(reference).keys() != without_wrappers(state).keys():
        return ""
    return (
        " But for 'module.' (DataParallel) and '_orig_mod.' (torch.compile) in the names they are alike: "
        "take them out of the names, or give the network inside."
    )


def _check_same(first: str, reference: Mapping[str, Tensor], name: str, state: Mapping[str, Tensor]) -> None:
    for key in sorted(reference.keys() ^ state.keys()):
        has, lacks = (first, name) if key in reference else (name, first)
        raise FedMergeError(
            f"models are not of one architecture: '{has}' has the entry '{key}', which '{lacks}' lacks; "
            f"merge models built from the same specification.{_wrapped(reference, state)}"
        )
    for key, value in reference.items():
        other = state[key]
        if value.shape != other.shape:
            raise FedMergeError(
                f"models are not of one architecture: '{key}' has shape {tuple(value.shape)} in '{first}' "
                f"and {tuple(other.shape)} in '{name}'; merge models built from the same specification."
            )
        if value.dtype != other.dtype:
            raise FedMergeError(
                f"'{key}' has dtype {value.dtype} in '{first}' and {other.dtype} in '{name}': "
                "convert the models to one dtype first."
            )
