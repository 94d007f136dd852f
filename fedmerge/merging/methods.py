"""What a fusion method receives and returns, and the registry that holds them all.

A fusion method is one function ``(parents, context, *, options) -> Merged``, registered with
``@FUSION.method(...)``. It reads its parents one at a time, so a pool on disk never has to fit in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.matching.statistics import LocalStatistics, Statistics
from fedmerge.models.loading import network_of
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import BatchNormPolicy, State, check_alike
from fedmerge.models.zoo import ModelSpec
from fedmerge.registry import Registry

if TYPE_CHECKING:
    from fedmerge.merging.matching.maps import Correspondence
    from fedmerge.merging.matching.networks import Networks

FUSION = Registry("fusion", "fusion method")


@dataclass(frozen=True)
class Parents:
    """The models to be merged: M states of one architecture, read when asked for.

    names: one name a model. load: returns the state of model i. architecture: of the model to be made, a
    module, which is never changed, or a specification. examples: training images behind each model, where
    known. modules: the models themselves, where they are in memory and may differ in width.
    """

    names: tuple[str, ...]
    load: Callable[[int], State]
    architecture: nn.Module | ModelSpec
    examples: tuple[int, ...] | None = None
    modules: tuple[nn.Module, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def template(self) -> nn.Module:
        """A module of the architecture of the model to be made, never to be changed."""
        if isinstance(self.architecture, nn.Module):
            return self.architecture
        return self.module(self.load(0))

    def states(self, indices: Sequence[int] | None = None) -> Iterator[State]:
        """Yield the states one at a time, all of them or those at ``indices``."""
        for index in range(len(self)) if indices is None else indices:
            yield self.load(index)

    def network(self, index: int) -> nn.Module:
        """Model ``index`` as a module: the one given, or the template's architecture with its weights."""
        return self.modules[index] if self.modules else self.module(self.load(index))

    def module(self, state: State) -> nn.Module:
        """A new module of the architecture that holds a copy of ``state``, in eval mode."""
        if isinstance(self.architecture, ModelSpec):
            return network_of(self.architecture, state, self.names[0])
        module = copy.deepcopy(self.architecture)
        module.load_state_dict(state)
        return module.eval()

    @classmethod
    def of(
        cls,
        models: Sequence[nn.Module] | ModelPool,
        names: Sequence[str] | None = None,
        examples: Sequence[int] | None = None,
        *,
        into: nn.Module | None = None,
        any_width: bool = False,
    ) -> Parents:
        """Parents from modules in memory or from a pool on disk.

        into: the architecture of the model to be made (default: the first model's). any_width: models may
        have layers of other widths. Raises FedMergeError if there are none, if names and models differ in
        number, or if the models are not of one architecture (keys, shapes, dtypes).
        """
        if len(models) == 0:
            raise FedMergeError("there is no model to merge: give at least one.")
        if isinstance(models, ModelPool):
            pool = models
            if into is not None and not any_width:
                check_alike(
                    (pool.names[0], "the model to be made"), (pool.state(pool.names[0]), into.state_dict())
                )
            return cls(
                tuple(pool.names),
                lambda i: pool.state(pool.names[i]),
                pool.card(pool.names[0]).model if into is None else into,
                None if examples is None else tuple(examples),
            )
        labels = tuple(names) if names is not None else tuple(f"model-{i}" for i in range(len(models)))
        if len(labels) != len(models):
            raise FedMergeError(
                f"{len(labels)} names were given for {len(models)} models: give one name each."
            )
        states = [{key: value.detach() for key, value in model.state_dict().items()} for model in models]
        template = models[0] if into is None else into
        if not any_width:
            check_alike((*labels, "the model to be made"), (*states, template.state_dict()))
        counts = None if examples is None else tuple(examples)
        return cls(labels, lambda i: states[i], template, counts, tuple(models))


@dataclass(frozen=True)
class Context:
    """What a method may ask for besides the parents.

    score: validation score of a candidate state, higher is better; in a federation the hospitals compute
    it, and only the number travels. example: one batch as the models take it (N x C x H x W). data: the
    fusion images, as the models take them (N x C x H x W). labels: their classes (N). statistics: where sums
    over fusion images come from: ``data`` here, or the hospitals. start: the weights from which all
    parents were trained. device: where to compute.
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

    def statistics_for(self, networks: Networks) -> Statistics:
        """Where sums over fusion images come from: as given, or computed from ``data`` here."""
        if self.statistics is not None:
            return self.statistics
        if self.data is None:
            raise FedMergeError("this method needs fusion images: pass data=, or statistics=.")
        parents = list(zip(networks.programs, networks.states, strict=True))
        return LocalStatistics(networks.fused, parents, self.data, self.labels, device=self.device)


@dataclass(frozen=True)
class Merged:
    """What a fusion method returns: the fused module, its coefficients by parent, and its decision log.

    ``forward_passes`` is what one prediction costs: 1 for merged weights, M for an ensemble.
    ``correspondence``: which of its neurons stand for which of the parents', where neurons were matched.
    """

    model: nn.Module
    coefficients: dict[str, float]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    forward_passes: int = 1
    correspondence: Correspondence | None = None


def uniform(parents: Parents) -> dict[str, float]:
    """Coefficient 1/M for each of the M parents."""
    return dict.fromkeys(parents.names, 1.0 / len(parents))
