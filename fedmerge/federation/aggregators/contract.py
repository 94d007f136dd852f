"""What an aggregator receives and returns, and the registry that holds them all.

An aggregator is one function ``(updates, around, *, options) -> Aggregated``, registered with
``@AGGREGATORS.method(...)``. Updates come one by one, in the order of the hospitals' names, already checked;
one that needs no two at a time (``mean``) holds no two, so memory does not grow with the number of hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fedmerge.merging.matching.statistics import Statistics
from fedmerge.models.state import BatchNormPolicy, State
from fedmerge.models.zoo import ModelSpec
from fedmerge.registry import Registry

AGGREGATORS = Registry("aggregation", "aggregator")


@dataclass(frozen=True)
class Update:
    """One hospital's weights after its training, and the number of images behind them."""

    site: str
    state: State
    images: float


class Hospitals(Protocol):
    """What hospitals can be asked about models in a round (``remote_evaluation.RemoteEvaluation``)."""

    def score(
        self,
        state: State,
        sites: Sequence[str] | None = None,
        metric: Literal["accuracy", "balanced_accuracy"] = "accuracy",
    ) -> float:
        """Validation score of a model on the images of ``sites``."""

    def statistics(
        self, parents: Mapping[str, State], images: Mapping[str, int], split: Literal["val", "train"] = "val"
    ) -> Statistics:
        """Sums over images that stay in the hospitals, for a fusion of ``parents``."""


@dataclass(frozen=True)
class Around:
    """What an aggregator may ask for besides the updates.

    start: the weights that the hospitals were sent. model: their network. hospitals: those of the run, to be
    asked about models.
    """

    start: State
    round: int
    seed: int
    batch_norm: BatchNormPolicy = "mixture"
    model: ModelSpec | None = None
    hospitals: Hospitals | None = None


@dataclass(frozen=True)
class Aggregated:
    """The new model, and what was decided about hospitals: rows with ``site`` and numbers.

    ``share`` is how much of a hospital's update is in the model, where not all count by their images.
    """

    state: State
    decisions: tuple[dict[str, Any], ...] = ()
