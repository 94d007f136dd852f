"""A fusion method: mean merging with one model heavier than the others."""

import fedmerge as fm
from fedmerge.models import average


@fm.FUSION.method(
    "first-heavy", title="Mean, the first model heavier", needs=fm.Needs(individual_models=True)
)
def first_heavy(parents: fm.Parents, context: fm.Context, *, times: float = 2.0) -> fm.Merged:
    """theta = (t theta_1 + theta_2 + … + theta_M) / (t + M - 1)."""
    weights = [times] + [1.0] * (len(parents) - 1)
    state = average(parents.states(), weights, batch_norm=context.batch_norm)
    coefficients = {name: a / sum(weights) for name, a in zip(parents.names, weights, strict=True)}
    return fm.Merged(parents.module(state), coefficients)
