"""What a fusion method receives and returns, and the registry of all fusion methods.

A fusion method is one function ``(parents, context, *, options) -> Merged``, registered with
``@FUSION.method(...)``. It reads its parents one at a time, so a pool on disk never has to fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fedmerge.merging.neurons.statistics import Statistics
from fedmerge.merging.parents import Parents
from fedmerge.models.state import BatchNormPolicy, State
from fedmerge.registry import Registry
from fedmerge.tasks import MULTICLASS, Task

if TYPE_CHECKING:
    from fedmerge.merging.neurons.maps import Correspondence

FUSION = Registry("fusion", "fusion method", "fedmerge.fusion")


@dataclass(frozen=True)
class Context:
    """The inputs of a method besides the parents.

    score: validation score of a candidate state, higher is better; in a federation the hospitals compute
    it, and only the number travels. example: one batch as the models take it (N x C x H x W). data: the
    fusion images, as the models take them (N x C x H x W). labels: their classes (N). statistics: where sums
    over fusion images come from: ``data`` here, or the hospitals. start: the weights from which all
    parents were trained. device: where to compute. task: what the parents' outputs mean.
    """

    score: Callable[[State], float] | None = None
    example: Tensor | None = None
    batch_norm: BatchNormPolicy = "mixture"
    seed: int = 0
    data: Tensor | None = None
    labels: Tensor | None = None
    statistics: Statistics | None = None
    start: State | None = None
    device: str = "cpu"
    task: Task = MULTICLASS


@dataclass(frozen=True)
class Merged:
    """What a fusion method returns: the fused module, its coefficients by parent, and its decision log.

    ``forward_passes`` is what one prediction costs: 1 for merged weights, M for an ensemble.
    ``correspondence``: which of its neurons stand for which of the parents', where neurons were matched.
    ``fitted``: whether its weights were fitted to images, so that nothing may rescale them afterwards.
    """

    model: nn.Module
    coefficients: dict[str, float]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    forward_passes: int = 1
    correspondence: Correspondence | None = None
    fitted: bool = False


def uniform(parents: Parents) -> dict[str, float]:
    """Coefficient 1/M for each of the M parents."""
    return dict.fromkeys(parents.names, 1.0 / len(parents))
