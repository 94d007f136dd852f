"""The interface of aggregators, and the registry that holds them all.

An aggregator is one function ``(updates, around, *, options) -> Aggregated``, registered with
``@AGGREGATORS.method(...)``. Updates come one by one, in the order of the hospitals' names, already checked;
one that needs no two at a time (``mean``) holds no two, so memory does not grow with the number of hospitals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fedmerge.errors import FedMergeError
from fedmerge.merging.neurons.statistics import Statistics
from fedmerge.models.state import BatchNormPolicy, State, non_finite
from fedmerge.models.zoo import ModelSpec
from fedmerge.registry import Registry

AGGREGATORS = Registry("aggregation", "aggregator", "fedmerge.aggregators")


@dataclass(frozen=True)
class Update:
    """One hospital's weights after its training, and the number of images behind them."""

    site: str
    state: State
    images: float


def held(updates: Iterable[Update]) -> list[Update]:
    """Return all updates at once, for what compares them.

    Raises FedMergeError without one, and for one that is not finite: sorted, NaN is the largest number, and
    no distance to it is large.
    """
    known = list(updates)
    if not known:
        raise FedMergeError("there is no update to aggregate: at least one hospital must answer.")
    for update in known:
        if broken := non_finite(update.state):
            raise FedMergeError(f"the update of '{update.site}' holds NaN or infinity in '{broken[0]}'.")
    return known


class Hospitals(Protocol):
    """The requests about models that an aggregator may send (``remote_evaluation.RemoteEvaluation``)."""

    def score(
        self,
        state: State,
        sites: Sequence[str] | None = None,
        metric: Literal["accuracy", "balanced_accuracy", "auroc", "kappa"] = "accuracy",
    ) -> float:
        """Return the validation score of a model on the images of ``sites``."""

    def statistics(
        self, parents: Mapping[str, State], images: Mapping[str, int], split: Literal["val", "train"] = "val"
    ) -> Statistics:
        """Return the remote statistics for a fusion of ``parents``."""


class Control(Protocol):
    """What an aggregator that needs control variates gets of the round's."""

    @property
    def images(self) -> float:
        """The training images of all hospitals of the federation."""

    def change(self, update: Update) -> State:
        """Return the change of the hospital's own control variate in this round, in float64."""


@dataclass(frozen=True)
class AggregationContext:
    """The context of an aggregation besides the updates.

    start: the weights that the hospitals were sent. model: their network. hospitals: for requests about
    models. control: for an aggregator that needs control variates.
    """

    start: State
    round: int
    seed: int
    batch_norm: BatchNormPolicy = "mixture"
    model: ModelSpec | None = None
    hospitals: Hospitals | None = None
    control: Control | None = None


@dataclass(frozen=True)
class Aggregated:
    """The new model, and decisions about hospitals: rows with ``site`` and numbers.

    ``share`` is the weight of a hospital's update in the model, if updates are not weighted by images.
    control: the change of the server's control variate, in float64, by parameter.
    """

    state: State
    decisions: tuple[dict[str, Any], ...] = ()
    control: State | None = None
