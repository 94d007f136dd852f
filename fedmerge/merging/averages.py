"""Averages of weights."""

from __future__ import annotations

from typing import Literal

from fedmerge.errors import FedMergeError
from fedmerge.merging.methods import FUSION, Context, Merged, Parents
from fedmerge.models.state import average


@FUSION.method(
    "mean",
    title="Mean merging",
    paper="FedAvg, arXiv 1602.05629; Model soups (uniform soup), arXiv 2203.05482",
)
def mean(
    parents: Parents, context: Context, *, weights: Literal["uniform", "samples"] | list[float] = "uniform"
) -> Merged:
    """Average the weights of all models: theta = sum_m a_m theta_m, with sum_m a_m = 1.

    ``weights``: ``uniform`` (a_m = 1/M), ``samples`` (a_m in proportion to hospital m's training images),
    or one number a model. Sums are taken in float64; integer buffers come from the first model;
    batch-norm statistics follow the run's policy.
    """
    coefficients = _coefficients(parents, weights)
    state = average(parents.states(), coefficients, batch_norm=context.batch_norm)
    total = sum(coefficients)
    return Merged(
        parents.module(state),
        {name: a / total for name, a in zip(parents.names, coefficients, strict=True)},
    )


def _coefficients(parents: Parents, weights: str | list[float]) -> list[float]:
    if weights == "uniform":
        return [1.0] * len(parents)
    if weights == "samples":
        if parents.examples is None:
            raise FedMergeError(
                "weights: samples needs the number of training images of each model: pass examples=[...]."
            )
        return [float(n) for n in parents.examples]
    if len(weights) != len(parents):
        raise FedMergeError(f"{len(weights)} weights were given for {len(parents)} models: give one each.")
    return [float(weight) for weight in weights]
