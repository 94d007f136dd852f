"""Coefficients of the sources from their predictions on a batch, and a memory of earlier batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.tasks import MULTICLASS, Task
from fedmerge.testtime.answers import spread
from fedmerge.testtime.entropy import coefficients
from fedmerge.testtime.scoring import Statistic, check_statistic, image_scores, scores

Order = Literal["batch", "image"]
MemoryOf = Literal["coefficients", "scores"]
EncoderRule = Literal["own", "cross"]
"""``own``: a source by its own complete model; ``cross``: its encoder under every source's head, averaged."""
HeadRule = Literal["merged-features", "shared", "cross", "class-wise"]
"""``merged-features``: a head on the features of the merged encoder; ``shared``: the encoder's scores;
``cross``: a head on every source's encoder, averaged; ``class-wise``: on merged features, class by class."""


def check_word(name: str, given: str, allowed: Any) -> None:
    """Raise FedMergeError unless ``given`` is one of the words of a Literal type."""
    words = get_args(allowed)
    if given not in words:
        raise FedMergeError(f"unknown {name} '{given}'. Allowed: {', '.join(words)}.")


@dataclass(frozen=True)
class Weighting:
    """How scores become coefficients.

    order: ``"batch"``: softmax(-score of the batch / T); ``"image"``: the mean over images of
        softmax(-score of the image / T), as in DaWin, arXiv 2410.03782.
    normalised: scores divided by log C, so that one T serves any number of classes; else in nats.
    """

    statistic: Statistic
    order: Order
    normalised: bool
    task: Task = MULTICLASS

    def __post_init__(self) -> None:
        check_word("order", self.order, Order)
        check_statistic(self.statistic, by_image=self.order == "image")

    def scores(self, logits: Tensor) -> Tensor:
        """The scores of M sources, from logits M x N x C: M, or M x N by image."""
        found = (
            image_scores(logits, self.statistic, self.task)
            if self.order == "image"
            else scores(logits, self.statistic, self.task)
        )
        return found if self.normalised else found * self.task.most_nats(logits.shape[-1])

    def weights(self, found: Tensor, temperature: float) -> Tensor:
        """Coefficients M, summing to one, from scores as :meth:`scores` gives them."""
        if found.ndim == 1:
            return coefficients(found, temperature)
        return torch.stack([coefficients(column, temperature) for column in found.T]).mean(dim=0)


def by_class(found: Tensor, share: Tensor, temperature: float) -> Tensor:
    """Coefficients M x C for each class: softmax(-score_c / T), score_c = sum_x q_c(x) s(x) / sum_x q_c(x).

    found: scores by image, M x N. share: q, N x C, the heads' mean probabilities, which never are all 0.
    """
    of_class = (found @ share) / share.sum(dim=0).clamp(min=torch.finfo(share.dtype).tiny)
    return torch.stack([coefficients(column, temperature) for column in of_class.T], dim=1)


class Memory:
    """An exponential moving average over batches: value = beta earlier + (1 - beta) now; beta 0: none."""

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise FedMergeError(f"memory is {beta}; it must be at least 0 (none) and below 1.")
        self.beta = beta
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.retained: dict[str, Tensor] = {}

    def update(self, name: str, now: Tensor) -> Tensor:
        """Update the average of ``name`` by its value now; return it. An entry NaN now keeps its average."""
        if self.beta == 0:
            return now
        if name in self.retained:
            earlier = torch.where(self.retained[name].isnan(), now, self.retained[name])
            now = torch.where(now.isnan(), earlier, self.beta * earlier + (1 - self.beta) * now)
        self.retained[name] = now
        return now


class Weigher:
    """Turns scores into coefficients, with a memory of earlier batches. sources: M."""

    def __init__(self, sources: int, weighting: Weighting, memory: float, memory_of: MemoryOf) -> None:
        check_word("memory of", memory_of, MemoryOf)
        if memory > 0 and memory_of == "scores" and weighting.order == "image":
            raise FedMergeError(
                "scores of single images cannot be remembered, because the next batch has others: set "
                "memory_of to coefficients, or order to batch."
            )
        self.sources, self.weighting = sources, weighting
        self.memory, self.memory_of = Memory(memory), memory_of

    def weights(self, name: str, found: Tensor, finite: Tensor, temperature: float) -> Tensor:
        """Return coefficients, A, of the sources ``finite`` from their scores; ``name``: in the memory."""
        if self.memory.beta == 0:
            return self.weighting.weights(found, temperature)
        if self.memory_of == "scores":
            return self.weighting.weights(self._remember(name, found, finite), temperature)
        alpha = self._remember(name, self.weighting.weights(found, temperature), finite)
        return alpha / alpha.sum()

    def _remember(self, name: str, now: Tensor, finite: Tensor) -> Tensor:
        return self.memory.update(name, spread(now, finite, self.sources, float("nan")))[finite]
