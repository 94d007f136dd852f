"""The options of k-means fusion of levels, in the groups in which a configuration shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedmerge.merging.matching.grouping import Centroids
from fedmerge.merging.matching.linear import Towards
from fedmerge.schema.typed import check_types


@dataclass(frozen=True)
class Clustering:
    """How neurons are clustered. centroids: the neurons k-means begins at. unit_rows: cluster on values
    scaled to length one at every position."""

    centroids: Centroids = "second"
    unit_rows: bool = False

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class LevelLoss:
    """What a level is fitted by.

    levels: ``mse``, the mean squared error from T_k, or ``weighted``: multiplied by the sum of s in its
    cluster; the closed form ignores this, since the optimum without a ridge is the same. head: the last
    level's; ``mse`` to the logits' means by importance, or ``kl`` to the plain mean of the parents'
    probabilities at ``temperature``.
    """

    levels: Literal["mse", "weighted"] = "mse"
    head: Literal["mse", "kl"] = "mse"
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class ClosedForm:
    """Least squares for a level that is one layer after something without parameters.

    use: else such a level descends like any other. ridge: in units of the mean squared input; None: ``lambda
    = weight_decay N K / 2``, the stationary point of descent with that decay. towards: what the ridge pulls
    to, the parents' matched average or zero.
    """

    use: bool = True
    ridge: float | None = None
    towards: Towards = "parents"

    def __post_init__(self) -> None:
        check_types(self)


CLUSTERING, LEVEL_LOSS, CLOSED_FORM = Clustering(), LevelLoss(), ClosedForm()
