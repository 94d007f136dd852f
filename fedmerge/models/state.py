"""Arithmetic on state dicts: means in float64, and one stated policy for batch-norm statistics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError

State: TypeAlias = dict[str, Tensor]
BatchNormPolicy = Literal["average", "mixture", "first"]
_PIECE = 32_768  # what torch still does in one thread: sharing out less costs more than it saves


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

    Integer and boolean entries (``num_batches_tracked``) are copied from the first state. Batch-norm
    statistics, mean m and variance v, follow ``batch_norm``:

    - ``average``: both are weighted means;
    - ``mixture``: the moments of the mixture of the models' input distributions (law of total variance),
      ``mean = sum a m`` and ``var = sum a (v + m^2) - mean^2``, not below zero. It is computed around the
      first model's mean, so that close models lose no digits;
    - ``first``: both are copied from the first state.

    Results have the dtypes and devices of the first state and share no memory with any input. Raises
    FedMergeError if there is no state, the states are not alike, or the weights do not fit.
    """
    if weights is not None:
        _total(weights)  # said before the first model is read
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
    """:func:`average`, one state at a time, where a weight is known only when its state is."""

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
        """The mean; asked for once. Raises FedMergeError without a state, or if the weights do not fit."""
        if self._sums is None:
            raise FedMergeError("there is no model to average: give at least one.")
        return self._sums.result(_total(self._weights))


class _Accumulator:
    """The running sums of :func:`average`: float64, except what is copied from the first state."""

    def __init__(self, first: State, batch_norm: BatchNormPolicy) -> None:
        pairs = running_pairs(first)
        kept = {key for pair in pairs for key in pair} if batch_norm == "first" else set()
        self.pairs = pairs if batch_norm == "mixture" else []
        self.order = {key: torch.empty_like(value, device="meta") for key, value in first.items()}
        self.dtypes = {key: value.dtype for key, value in first.items()}
        self.copies: State = {}
        self.sums: State = {}
        for key, value in first.items():
            if value.is_floating_point() and key not in kept:
                # Minus zero, because it is the zero that keeps the sign of a minus zero added to it.
                self.sums[key] = torch.full(value.shape, -0.0, dtype=torch.float64, device=value.device)
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
            self.sums[var].sub_(self.sums[mean].square()).clamp_(min=0)
            centre, offset = self.centres[mean], self.sums[mean]
            self.sums[mean] = torch.where(offset == 0, centre, centre + offset)
        return {
            key: self.copies[key] if key in self.copies else self.sums.pop(key).to(self.dtypes[key])
            for key in self.order
        }


def _add_scaled(total: Tensor, value: Tensor, weight: float) -> None:
    """``total += weight * value``, widened piece by piece in the cache: several times faster than at once."""
    flat, source = total.view(-1), value.reshape(-1)
    piece = _PIECE if value.device.type == "cpu" else max(1, len(flat))
    for start in range(0, len(flat), piece):
        part = slice(start, start + piece)
        flat[part].add_(source[part], alpha=weight)  # in float64, the wider of the two


def running_pairs(keys: Iterable[str]) -> list[tuple[str, str]]:
    """The (running_mean, running_var) key pairs of batch norm that stand under one prefix."""
    present = list(keys)
    found = []
    for key in present:
        prefix, _, last = key.rpartition(".")
        partner = f"{prefix}.running_var" if prefix else "running_var"
        if last == "running_mean" and partner in present:
            found.append((key, partner))
    return found


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
        key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())
    ]


def _total(weights: Sequence[float]) -> float:
    total = math.fsum(weights)
    if not all(map(math.isfinite, weights)) or not math.isfinite(total) or total == 0:
        raise FedMergeError(
            f"the weights {[float(weight) for weight in weights]} cannot be used: "
            "each must be finite, and their sum must not be zero."
        )
    return total


def _check_same(first: str, reference: Mapping[str, Tensor], name: str, state: Mapping[str, Tensor]) -> None:
    for key in sorted(reference.keys() ^ state.keys()):
        has, lacks = (first, name) if key in reference else (name, first)
        raise FedMergeError(
            f"models are not of one architecture: '{has}' has the entry '{key}', which '{lacks}' lacks; "
            "merge models built from the same specification."
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
