"""Order statistics, coordinate by coordinate: the median and the trimmed mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from fedmerge.federation.aggregators.contract import (
    AGGREGATORS,
    Aggregated,
    AggregationContext,
    Update,
    held,
)
from fedmerge.federation.checks import trained
from fedmerge.models.entries import kinds, refuse_complex, running_pairs
from fedmerge.models.state import BatchNormPolicy, State, check_fixed
from fedmerge.registry import Needs

Statistic: TypeAlias = Callable[[Tensor], Tensor]
"""A function from n values per coordinate (n x ...), sorted along axis 0, to one (...), in float64."""


@AGGREGATORS.method(
    "median",
    title="Coordinate-wise median",
    paper="Yin et al. 2018, arXiv 1803.01498",
    needs=Needs(individual_models=True),
)
def median(updates: Iterable[Update], context: AggregationContext) -> Aggregated:
    """The median of each weight: theta_j <- med_m theta_mj.

    Every hospital is one voice; of an even number it is the mean of both middle values. While fewer than half
    of the hospitals are hostile it stays among honest values.

    Batch-norm statistics: the median of the running means, mu = med_m mu_m, and of the second moments around
    it, med_m (v_m + (mu_m - mu)^2), or of the variances v_m where ``around.batch_norm`` is ``average``.
    Counts (of batches): the lower median; tables of integers must be equal. All updates are held at a time.
    """
    return Aggregated(_each([update.state for update in held(updates)], median_of, context.batch_norm))


@AGGREGATORS.method(
    "trimmed-mean",
    title="Coordinate-wise trimmed mean",
    paper="Yin et al. 2018, arXiv 1803.01498",
    needs=Needs(individual_models=True),
)
def trimmed_mean(
    updates: Iterable[Update],
    context: AggregationContext,
    *,
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.2,
) -> Aggregated:
    """The mean of each weight without its k = floor(trim n) smallest and k largest values, of n hospitals.

    Every hospital is one voice. Up to k hostile ones cannot move it out of the honest values; with trim: 0 it
    is the unweighted mean. Batch-norm statistics and integers as in ``median``, trimmed means for
    medians. All updates are held at a time.
    """
    states = [update.state for update in held(updates)]
    cut = int(trim * len(states) + 1e-9)  # 0.29 of 100 is 29, also in binary
    return Aggregated(_each(states, partial(trimmed_mean_of, cut=cut), context.batch_norm))


def median_of(ordered: Tensor) -> Tensor:
    """Return the median of sorted values along the first axis."""
    n = len(ordered)
    return (ordered[(n - 1) // 2].double() + ordered[n // 2].double()) / 2


def trimmed_mean_of(ordered: Tensor, cut: int) -> Tensor:
    """Return the mean of sorted values along the first axis without ``cut`` at each end."""
    return ordered[cut : len(ordered) - cut].double().mean(0)


def _each(states: Sequence[State], statistic: Statistic, batch_norm: BatchNormPolicy) -> State:
    first = states[0]
    refuse_complex(first, "an order statistic")
    merged = {key: _statistic([state[key] for state in states], statistic) for key in trained(first)}
    merged |= robust_statistics(states, statistic, batch_norm)
    return {key: merged[key] for key in first}


@torch.no_grad()
def robust_statistics(states: Sequence[State], statistic: Statistic, batch_norm: BatchNormPolicy) -> State:
    """Aggregate untrained entries: batch-norm statistics by ``statistic``, counts as lower medians.

    Tables of other integers must be equal in all (``models.entries``), or FedMergeError names the entry.

    mu = T(mu_m), var = T(v_m + (mu_m - mu)^2) for T the statistic: with the mean as T, the moments of the
    mixture. With ``average``, var = T(v_m).
    """
    first, merged = states[0], State()
    for mean, var in running_pairs(first):
        means = torch.stack([state[mean].double() for state in states])
        variances = torch.stack([state[var].double() for state in states])
        centre = statistic(means.sort(0).values)
        if batch_norm == "mixture":
            variances = variances + (means - centre).square()
        merged[mean] = centre.to(first[mean].dtype)
        merged[var] = statistic(variances.sort(0).values).to(first[var].dtype)
    done = merged.keys() | set(trained(first))
    for key, kind in kinds(first, "the first update").items():
        for place, state in enumerate(states[1:] if kind == "fixed" and first[key].ndim else [], 2):
            check_fixed(key, "the first update", first[key], f"update {place}", state[key])
    for key in first.keys() - done:
        stacked = torch.stack([state[key] for state in states])
        merged[key] = stacked.sort(0).values[(len(states) - 1) // 2]
    return merged


@torch.no_grad()
def _statistic(values: Sequence[Tensor], statistic: Statistic) -> Tensor:
    return statistic(torch.stack(list(values)).sort(0).values).to(values[0].dtype)
