"""What an aggregator receives and returns, and the registry that holds them all.

An aggregator is one function ``(updates, around, *, options) -> Aggregated``, registered with
``@AGGREGATORS.method(...)``. Updates come one by one, in the order of the hospitals' names, already checked;
one that needs no two at a time (``mean``) holds no two, so memory does not grow with the number of hospitals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedmerge.models.state import BatchNormPolicy, State
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
    """The new model, and what was decided about hospitals: rows with ``site`` and numbers.

    ``share`` is how much of a hospital's update is in the model, where not all count by their images.
    """

    state: State
    decisions: tuple[dict[str, Any], ...] = ()
