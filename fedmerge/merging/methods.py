"""What a fusion method receives and returns, and the registry that holds them all.

A fusion method is one function ``(parents, context, *, options) -> Merged``, registered with
``@FUSION.method(...)``. It reads its parents one at a time, so a pool on disk never has to fit in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import BatchNormPolicy, State, check_alike
from fedmerge.registry import Registry

FUSION = Registry("fusion", "fusion method")


@dataclass(frozen=True)
class Parents:
    """The models to be merged: M states of one architecture, read when asked for.

    names: one name a model. load: returns the state of model i. template: a module of that architecture,
    copied for every result and never changed. examples: training images behind each model, where known.
    """

    names: tuple[str, ...]
    load: Callable[[int], State]
    template: nn.Module
    examples: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def states(self, indices: Sequence[int] | None = None) -> Iterator[State]:
        """Yield the states one at a time, all of them or those at ``indices``."""
        for index in range(len(self)) if indices is None else indices:
            yield self.load(index)

    def module(self, state: State) -> nn.Module:
        """A new module of the parents' architecture that holds ``state``, in eval mode."""
        module = copy.deepcopy(self.template)
        module.load_state_dict(state)
        return module.eval()

    @classmethod
    def of(
        cls,
        models: Sequence[nn.Module] | ModelPool,
        names: Sequence[str] | None = None,
        examples: Sequence[int] | None = None,
    ) -> Parents:
        """Parents from modules in memory or from a pool on disk.

        Raises FedMergeError if there are none, if names and models differ in number, or if the models
        are not of one architecture (keys, shapes, dtypes).
        """
        if len(models) == 0:
            raise FedMergeError("there is no model to merge: give at least one.")
        if isinstance(models, ModelPool):
            pool = models
            return cls(
                tuple(pool.names),
                lambda i: pool.state(pool.names[i]),
                pool.model(pool.names[0]),
                None if examples is None else tuple(examples),
            )
        labels = tuple(names) if names is not None else tuple(f"model-{i}" for i in range(len(models)))
        if len(labels) != len(models):
            raise FedMergeError(
                f"{len(labels)} names were given for {len(models)} models: give one name each."
            )
        states = [{key: value.detach() for key, value in model.state_dict().items()} for model in models]
        check_alike(labels, states)
        return cls(labels, lambda i: states[i], models[0], None if examples is None else tuple(examples))


@dataclass(frozen=True)
class Context:
    """What a method may ask for besides the parents.

    score: validation score of a candidate state, higher is better; in a federation the hospitals compute
    it, and only the number travels. example: one batch as the models take it (N x C x H x W).
    """

    score: Callable[[State], float] | None = None
    example: Tensor | None = None
    batch_norm: BatchNormPolicy = "mixture"
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """What a fusion method returns: the fused module, its coefficients by parent, and its decision log.

    ``forward_passes`` is what one prediction costs: 1 for merged weights, M for an ensemble.
    """

    model: nn.Module
    coefficients: dict[str, float]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    forward_passes: int = 1


def uniform(parents: Parents) -> dict[str, float]:
    """Coefficient 1/M for each of the M parents."""
    return dict.fromkeys(parents.names, 1.0 / len(parents))
