"""Means of updates: unchanged, or each clipped to a norm."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from fedmerge.federation.aggregators.contract import (
    AGGREGATORS,
    Aggregated,
    AggregationContext,
    Update,
    held,
)
from fedmerge.federation.aggregators.order import median_of, robust_statistics
from fedmerge.federation.checks import trained, update_norm
from fedmerge.models.state import RunningMean, State
from fedmerge.registry import Needs


@AGGREGATORS.method("mean", title="Federated averaging", paper="McMahan et al. 2017, arXiv 1602.05629")
def mean(updates: Iterable[Update], context: AggregationContext) -> Aggregated:
    """The mean weighted by images: theta <- sum_m (n_m / n) theta_m, n_m the training images of hospital m.

    Accumulated in float64; batch-norm statistics follow ``around.batch_norm``, counts (of batches) are those
    of the first hospital, tables of integers must be equal. One hostile update can move it anywhere.
    """
    running = RunningMean(context.batch_norm)
    for update in updates:
        running.add(update.state, update.images)
        del update  # free it before the next one is read
    return Aggregated(running.result())


@AGGREGATORS.method(
    "norm-clipping",
    title="Mean of clipped updates",
    paper="Sun et al. 2019, arXiv 1911.07963",
    needs=Needs(individual_models=True),
)
def norm_clipping(
    updates: Iterable[Update],
    context: AggregationContext,
    *,
    norm: Annotated[float, Field(gt=0)] | None = None,
) -> Aggregated:
    """The mean by images of updates that are at most ``norm`` long.

    theta <- theta_0 + sum_m (n_m / n) d_m min(1, norm / |d_m|), with d_m = theta_m - theta_0, theta_0 the
    weights that were sent, and |d_m| the ``checks.update_norm``. Without ``norm`` it is the median of the
    round's. A hostile hospital of n_m images moves the model by at most (n_m / n) norm; it is not left out.

    Batch-norm statistics have no such length and are coordinate medians (see ``median``); counts (of batches)
    are lower medians, too. All updates are held at a time.
    """
    known = held(updates)
    images = sum(update.images for update in known)
    lengths = [update_norm(update.state, context.start) for update in known]
    limit = statistics.median(lengths) if norm is None else norm
    running = RunningMean("average")
    decisions: list[dict[str, Any]] = []
    for update, length in zip(known, lengths, strict=True):
        scale = min(1.0, limit / length) if length > 0 else 1.0
        running.add(_shortened(update.state, context.start, scale), update.images)
        decisions.append({"site": update.site, "norm": length, "share": update.images / images * scale})
    states = [update.state for update in known]
    return Aggregated(
        running.result() | robust_statistics(states, median_of, context.batch_norm), tuple(decisions)
    )


def _shortened(state: State, start: State, scale: float) -> State:
    """Return ``start + scale (state - start)`` for trained entries, computed in float64; others unchanged."""
    if scale == 1.0:
        return state
    moved = {}
    for key in trained(state):
        begin = start[key].double()
        moved[key] = (begin + scale * (state[key].double() - begin)).to(state[key].dtype)
    return state | moved
