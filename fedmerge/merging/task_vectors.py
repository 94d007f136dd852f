"""Arithmetic on task vectors tau_m = theta_m - theta_0, what each model learned since the shared start.

Parameters alone are merged so; floating-point buffers, batch-norm statistics among them, are averaged by the
run's policy. Differences and sums are float64; one model is read at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedmerge.merging.averages import mean_of
from fedmerge.merging.checks import shared_start, summation_order
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.parents import Parents
from fedmerge.models.entries import refuse_complex
from fedmerge.models.state import State, narrowed
from fedmerge.registry import Needs
from fedmerge.seeding import generator

Share = Annotated[float, Field(gt=0, le=1)]
NEEDS = Needs(individual_models=True, shared_start=True)


@FUSION.method(
    "task-arithmetic", title="Task arithmetic", paper="Task arithmetic, arXiv 2212.04089", needs=NEEDS
)
def task_arithmetic(parents: Parents, context: Context, *, scale: float = 0.3) -> Merged:
    """Add up what all models learned: theta = theta_0 + scale * sum_m tau_m.

    With ``scale`` = 1/M this is the mean of the parameters. ``coefficients`` are the scale of each model;
    the start keeps 1 - M * scale. The paper chooses ``scale`` on validation data; 0.3 is the usual value
    where none are, and is meant for eight tasks. Raises FedMergeError without a start of the models'
    architecture.
    """
    start = shared_start(parents, context, "task-arithmetic")
    total = _sum(task_vector(parents, start, i) for i in summation_order(parents))
    coefficients = dict.fromkeys(parents.names, scale)
    return Merged(from_start(parents, context, start, total, scale), coefficients)


@FUSION.method("ties", title="TIES merging", paper="TIES-Merging, arXiv 2306.01708", needs=NEEDS)
def ties(
    parents: Parents,
    context: Context,
    *,
    keep: Share = 0.2,
    scale: float = 1.0,
    combine: Literal["mean", "sum"] = "mean",
) -> Merged:
    """Trim, elect signs, merge what agrees: theta = theta_0 + scale * tau.

    Of each task vector the ``keep`` share of largest magnitude stays: round(keep * n) of the n entries of the
    whole flat vector, as in the paper, not layer by layer; what equals the smallest that stays, stays too.
    Each entry's sign is that of the sum over models; where the sum is zero, the sign most entries have.
    ``combine``: the mean or the sum of the trimmed entries with the elected sign (those that are zero do
    not count). ``decisions`` has the threshold of each model. Coefficients are 1/M: every model has a vote.

    Departs from the released code in two things. It keeps int(keep * n) + 1 entries, and fails for ``keep``
    1. And where as many entries are elected positive as negative, an entry whose sum is zero stays at the
    start here, and turns negative there. It also merges buffers like parameters (see the module).
    """
    start = shared_start(parents, context, "ties")
    order = summation_order(parents)
    limits = [threshold(task_vector(parents, start, i), keep) for i in range(len(parents))]

    def trimmed() -> Iterator[State]:
        for i in order:
            yield trim(task_vector(parents, start, i), limits[i])

    log = [{"model": n, "threshold": limit} for n, limit in zip(parents.names, limits, strict=True)]
    fused = from_start(parents, context, start, elect(trimmed, combine), scale)
    return Merged(fused, uniform(parents), log)


@FUSION.method("dare", title="DARE merging", paper="DARE, arXiv 2311.03099", needs=NEEDS)
def dare(
    parents: Parents,
    context: Context,
    *,
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    then: Literal["arithmetic", "ties"] = "arithmetic",
    scale: float | None = None,
    combine: Literal["mean", "sum"] = "mean",
) -> Merged:
    """Drop entries of the task vectors at random and rescale the rest by 1 / (1 - drop), then merge.

    Each entry of tau_m is dropped with probability ``drop``, by a mask drawn from (seed, "dare", name of the
    model); its expectation stays tau_m. ``then``: ``arithmetic``, theta_0 + scale * sum of what is left
    (scale 0.3 unless given), or ``ties``, sign election among what is left and ``combine`` of what agrees
    (scale 1.0 unless given); the random drop stands in the place of TIES' trimming, where the released code
    trims what is left, too.
    """
    start = shared_start(parents, context, "dare")
    order = summation_order(parents)

    def dropped() -> Iterator[State]:
        for i in order:
            draws = generator(context.seed, "dare", site=parents.names[i])
            yield drop_entries(task_vector(parents, start, i), drop, draws)

    if then == "arithmetic":
        scale = 0.3 if scale is None else scale
        fused = from_start(parents, context, start, _sum(dropped()), scale)
        return Merged(fused, dict.fromkeys(parents.names, scale))
    update = elect(dropped, combine)
    fused = from_start(parents, context, start, update, 1.0 if scale is None else scale)
    return Merged(fused, uniform(parents))


def task_vector(parents: Parents, start: State, index: int) -> State:
    """tau_m in float64, by the name of each parameter; a parameter with two names stands under the first."""
    state = parents.load(index)
    return {
        key: state[key].to(torch.float64) - start[key].to(state[key].device, torch.float64)
        for key in dict.fromkeys(weight_names(parents).values())
    }


def weight_names(parents: Parents) -> dict[str, str]:
    """:func:`parameter_names` of the models. Raises FedMergeError where a parameter is complex."""
    refuse_complex(dict(parents.template.named_parameters()), "arithmetic on task vectors")
    return parameter_names(parents.template)


def parameter_names(module: nn.Module) -> dict[str, str]:
    """Each floating parameter's key, and the first key of the same parameter (where weights are tied)."""
    first: dict[int, str] = {}
    return {
        key: first.setdefault(id(value), key)
        for key, value in module.named_parameters(remove_duplicate=False)
        if value.is_floating_point()
    }


def from_start(parents: Parents, context: Context, start: State, update: State, scale: float) -> nn.Module:
    """The module with parameters theta_0 + scale * update, in the parents' dtypes, and averaged buffers."""
    moved = {key: start[key].to(tau.device, torch.float64) + scale * tau for key, tau in update.items()}
    return with_parameters(parents, context, moved, weight_names(parents))


def with_parameters(
    parents: Parents, context: Context, parameters: State, names: Mapping[str, str]
) -> nn.Module:
    """The module with these parameters and everything else averaged over the parents by the policy.

    names: which of the parameters stands under each key. Raises FedMergeError where one does not fit its
    dtype.
    """
    first = parents.load(0)
    state = {key: narrowed(key, parameters[name], first[key].dtype) for key, name in names.items()}
    others = [key for key in first if key not in names]
    del first
    return parents.module(state | mean_of(parents, context, [1.0] * len(parents), others))


def threshold(vector: State, keep: float) -> float:
    """The magnitude of the round(keep * n)-th largest of the n entries (at least the first)."""
    flat = torch.cat([value.abs().flatten() for value in vector.values()])
    return float(flat.kthvalue(len(flat) - max(1, round(keep * len(flat))) + 1).values)


def trim(vector: State, limit: float) -> State:
    """``vector`` with the entries smaller than ``limit`` set to zero."""
    return {key: torch.where(value.abs() >= limit, value, 0.0) for key, value in vector.items()}


def drop_entries(vector: State, drop: float, draws: torch.Generator) -> State:
    """``vector`` with each entry zero with probability ``drop``, else divided by 1 - ``drop``."""
    return {
        key: torch.where(_uniform(value, draws) >= drop, value / (1 - drop), 0.0)
        for key, value in vector.items()
    }


def elect(vectors: Callable[[], Iterator[State]], combine: Literal["mean", "sum"]) -> State:
    """TIES' sign election over ``vectors()``, which is gone through twice, and the merge of what agrees."""
    signs = {key: mass.sign() for key, mass in _sum(vectors()).items()}
    majority = torch.stack([sign.sum().cpu() for sign in signs.values()]).sum().sign().item()
    signs = {key: torch.where(sign == 0, majority, sign) for key, sign in signs.items()}
    agreed = {key: torch.zeros_like(sign) for key, sign in signs.items()}
    counts = {key: torch.zeros_like(sign) for key, sign in signs.items()}
    for vector in vectors():
        for key, value in vector.items():
            agrees = value * signs[key] > 0
            agreed[key] += torch.where(agrees, value, 0.0)
            counts[key] += agrees
    if combine == "sum":
        return agreed
    return {key: value / counts[key].clamp(min=1) for key, value in agreed.items()}


def _sum(vectors: Iterator[State]) -> State:
    total = next(vectors)
    for vector in vectors:
        for key, value in vector.items():
            total[key] += value
    return total


def _uniform(like: Tensor, draws: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=draws, dtype=torch.float64).to(like.device)
