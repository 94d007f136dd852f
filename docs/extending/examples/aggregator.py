"""An aggregator: the mean by images, but no hospital counts as more than so many images."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

import fedmerge as fm
from fedmerge.models import average


@fm.AGGREGATORS.method("capped-mean", title="Mean of updates with a cap on images")
def capped_mean(
    updates: Iterable[fm.Update],
    context: fm.AggregationContext,
    *,
    most: Annotated[float, Field(gt=0)] = 100.0,
) -> fm.Aggregated:
    """theta = sum_m w_m theta_m / sum_m w_m with w_m = min(n_m, most), n_m the images of hospital m."""
    known = list(updates)
    weights = [min(update.images, most) for update in known]
    state = average((update.state for update in known), weights, batch_norm=context.batch_norm)
    decisions = [
        {"site": update.site, "share": weight / sum(weights)}
        for update, weight in zip(known, weights, strict=True)
    ]
    return fm.Aggregated(state, tuple(decisions))
