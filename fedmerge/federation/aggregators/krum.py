"""Krum and Multi-Krum: the updates that lie closest to their neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators.contract import (
    AGGREGATORS,
    Aggregated,
    AggregationContext,
    Update,
    held,
)
from fedmerge.models.entries import refuse_complex
from fedmerge.models.state import State, average
from fedmerge.registry import Needs

Hostile = Annotated[int, Field(ge=0)]


def fewest_updates(hostile: int) -> int:
    """Return the fewest updates among which Krum tolerates f = ``hostile`` hostile ones: 2 f + 3."""
    return 2 * hostile + 3


@AGGREGATORS.method(
    "krum",
    title="Krum",
    paper="Blanchard et al. 2017, arXiv 1703.02757",
    needs=Needs(individual_models=True),
)
def krum(updates: Iterable[Update], context: AggregationContext, *, hostile: Hostile = 1) -> Aggregated:
    """The one update that lies closest to its neighbours; the work of all other hospitals is lost.

    s(m) = sum of |theta_m - theta_k|^2 over the n - f - 2 updates k nearest to m, f = ``hostile``; the update
    with the smallest s, the first by name among equal ones. Distances are over all floating-point entries,
    also batch-norm statistics, because a hostile hospital could hide there; integers and everything
    else are those of the chosen one. Raises FedMergeError for fewer than 2 f + 3 updates.
    """
    known = held(updates)
    scores = _scores(known, hostile, "krum", context.round)
    best = min(range(len(known)), key=scores.__getitem__)
    return Aggregated(dict(known[best].state), _decisions(known, scores, [best]))


@AGGREGATORS.method(
    "multi-krum",
    title="Multi-Krum",
    paper="Blanchard et al. 2017, arXiv 1703.02757",
    needs=Needs(individual_models=True),
)
def multi_krum(
    updates: Iterable[Update],
    context: AggregationContext,
    *,
    hostile: Hostile = 1,
    keep: Annotated[int, Field(ge=1)] | None = None,
) -> Aggregated:
    """The unweighted mean of the ``keep`` updates with the smallest Krum scores; by default n - f.

    Scores as in ``krum``. Batch-norm statistics of the kept ones follow ``around.batch_norm``; counts (of
    batches) are those of the first kept. Raises FedMergeError for fewer than 2 f + 3 updates, or than
    ``keep``.
    """
    known = held(updates)
    scores = _scores(known, hostile, "multi-krum", context.round)
    wanted = len(known) - hostile if keep is None else keep
    if wanted > len(known):
        raise FedMergeError(
            f"round {context.round}: multi-krum is to keep {wanted} updates, but there are {len(known)}: "
            "lower 'keep', or set the quorum to it."
        )
    chosen = sorted(sorted(range(len(known)), key=scores.__getitem__)[:wanted])
    merged = average((known[i].state for i in chosen), batch_norm=context.batch_norm)
    return Aggregated(merged, _decisions(known, scores, chosen))


def _scores(known: Sequence[Update], hostile: int, name: str, round: int) -> list[float]:
    least = fewest_updates(hostile)
    if len(known) < least:
        raise FedMergeError(
            f"round {round}: {name} with hostile: {hostile} needs at least 2 x {hostile} + 3 = {least} "
            f"updates, but there are {len(known)}: choose median or trimmed-mean, or set the quorum to "
            f"{least} for the run to end where fewer answer."
        )
    refuse_complex(known[0].state, name)
    squares = _squared_distances([update.state for update in known])
    squares.fill_diagonal_(torch.inf)
    nearest = squares.sort(1).values[:, : len(known) - hostile - 2]
    return [float(score) for score in nearest.sum(1)]


@torch.no_grad()
def _squared_distances(states: Sequence[State]) -> Tensor:
    """Return |theta_i - theta_j|^2 over all floating-point entries, n x n, in float64."""
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    for key in [key for key, value in states[0].items() if value.is_floating_point()]:
        rows = torch.stack([state[key].detach().cpu().double().reshape(-1) for state in states])
        total += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return total


def _decisions(
    known: Sequence[Update], scores: Sequence[float], kept: Sequence[int]
) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"site": update.site, "score": score, "share": 1 / len(kept) if i in kept else 0.0}
        for i, (update, score) in enumerate(zip(known, scores, strict=True))
    )
