"""Aggregators: how the updates of one round become one model, and the registry that holds them.

An aggregator is one function ``(updates, around, *, options) -> Aggregated``, registered with
``@AGGREGATORS.method(...)``. Updates come one by one, in the order of the hospitals' names, already checked;
one that needs no two at a time (``mean``) holds no two, so memory does not grow with the number of hospitals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedmerge.models.state import BatchNormPolicy, RunningMean, State
from fedmerge.registry import Registry

AGGREGATORS = Registry("aggregation", "aggregator")


@dataclass(frozen=True)
class Update:
    """One hospital's weights after its training, and the number of images behind them."""

    site: str
    state: State
    images: float


@dataclass(frozen=True)
class Around:
    """What an aggregator may ask for besides the updates.

    start: the weights that the hospitals were sent.
    """

    start: State
    round: int
    seed: int
    batch_norm: BatchNormPolicy = "mixture"


@dataclass(frozen=True)
class Aggregated:
    """The new model, and what was decided on the way: rows with the key ``site``."""

    state: State
    decisions: tuple[dict[str, Any], ...] = ()


@AGGREGATORS.method("mean", title="Federated averaging", paper="McMahan et al. 2017, arXiv 1602.05629")
def mean(updates: Iterable[Update], around: Around) -> Aggregated:
    """The mean weighted by images: theta <- sum_m (n_m / n) theta_m, n_m the training images of hospital m.

    Accumulated in float64; batch-norm statistics follow ``around.batch_norm``, integer buffers are those of
    the first hospital. One hostile update can move it anywhere.
    """
    running = RunningMean(around.batch_norm)
    for update in updates:
        running.add(update.state, update.images)
        del update  # so that it can be freed before the next one is read
    return Aggregated(running.result())
