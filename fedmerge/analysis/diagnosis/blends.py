"""Weighted sums of models' weights, each evaluated: the points of a path or of a plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.analysis.diagnosis.contract import Score, Subject, answers, score
from fedmerge.models.copies import faithful
from fedmerge.models.flat import FlatModels
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of
from fedmerge.models.state import State
from fedmerge.testtime.norms import use_batch_statistics

AT_ONCE = 8
"""Points that a GPU evaluates together."""


class Blends:
    """Evaluates ``sum_i a_i theta_i`` for weights a on a subject's images.

    states: theta_i. anew: batch norms take the statistics of the batches of images that are evaluated, which
    is one pass; else the blended running ones, both averaged plainly, a variance not below zero. A point is
    evaluated once. On a GPU points go through the network ``AT_ONCE`` at a time (``torch.vmap``).
    """

    def __init__(self, subject: Subject, states: Sequence[State], anew: bool = False) -> None:
        self.subject, self.anew = subject, anew
        self.flat = FlatModels(states, subject.network(), batch_norm="average").to(subject.device)
        self.flat.part(lambda key: "all")
        if anew:
            self.flat.change_merged(use_batch_statistics)
        self._known: dict[tuple[float, ...], Score] = {}

    def scores(self, weights: Sequence[Sequence[float]]) -> list[Score]:
        """Return the score of each point, from its weights, one for each state."""
        asked = [tuple(map(float, each)) for each in weights]
        missing = [each for each in dict.fromkeys(asked) if each not in self._known]
        together = self.subject.device.type == "cuda"
        for some in (missing[i : i + AT_ONCE] for i in range(0, len(missing), AT_ONCE)):
            found = self.together(some) if together else [self._one(each) for each in some]
            self._known |= dict(zip(some, found, strict=True))
        return [self._known[each] for each in asked]

    def put(self, weights: Sequence[float]) -> None:
        """Write one point into the merged model."""
        self.flat.merge("all", torch.tensor(weights, device=self.subject.device))
        for layout, _, merged in self.flat.matrices:
            merged[layout.means[1] :].clamp_(min=0)

    def _one(self, weights: Sequence[float]) -> Score:
        self.put(weights)
        return score(
            answers(self.flat.merged_model, self.subject.pictures), self.subject.classes, self.subject.task
        )

    @torch.no_grad()
    def together(self, weights: Sequence[Sequence[float]]) -> list[Score]:
        """Return the scores of several points, all of them in one pass over the images."""
        copies = []
        for each in weights:
            self.put(each)
            copies.append(faithful(self.flat.merged_model))
        parameters, buffers = stack_module_state(copies)

        def run(own: dict[str, Tensor], held: dict[str, Tensor], x: Tensor) -> Tensor:
            return logits_of(functional_call(copies[0], (own, held), (x,)), copies[0]).flatten(1)

        with evaluating(copies[0]):
            logits = torch.cat([
                vmap(run, in_dims=(0, 0, None))(parameters, buffers, x)
                for x in self.subject.pictures.split(64)
            ], 1)  # fmt: skip
        return [score(each, self.subject.classes, self.subject.task) for each in logits]


def has_batch_norm(subject: Subject) -> bool:
    """Whether the models have batch norms with running statistics."""
    return any(isinstance(each, _BatchNorm) for each in next(iter(subject.models.values())).modules())
