"""Decide when a merged model is not to be trusted on a stream, and what answers in its place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.outputs import logits_of
from fedmerge.models.wide import wide
from fedmerge.schema.typed import check_types
from fedmerge.tasks import task_of
from fedmerge.testtime.answers import Answers
from fedmerge.testtime.batch import taking
from fedmerge.testtime.entropy import sample_entropies

Reference = Literal["mean", "ensemble"]
FAR = 0.5
"""Total variation distance from the sources' mean prediction beyond which one class is the model's own."""


@dataclass(frozen=True)
class Guard:
    """What counts as collapse, and which reference answers then: mean merging or the sources' ensemble.

    coefficient: an encoder coefficient above it on each of the last ``patience`` batches: collapsed on one
        source. None: never.
    one_class: the entropy (0 to 1) of the merged model's mean prediction below it on each of the last
        ``patience`` batches, while the sources' mean prediction is further away than a total variation
        distance of one half: collapsed on one class. A stream that does show one class for long is no
        collapse, because there the sources agree. None: never.
    margin: how much the merged model's mean entropy (0 to 1) may be above that of mean merging. It costs one
        more pass a batch. None: not asked.
    patience: batches in a row, at least 1.

    Logits of the merged model that are not finite are a fault at once. It answers again on the first batch
    where nothing of this holds.
    """

    reference: Reference = "mean"
    coefficient: float | None = 0.999
    one_class: float | None = 0.05
    margin: float | None = None
    patience: int = 8

    def __post_init__(self) -> None:
        if self.reference not in ("mean", "ensemble"):
            raise FedMergeError(f"unknown reference '{self.reference}'. Allowed: mean, ensemble.")
        check_types(self)
        if self.patience < 1:
            raise FedMergeError(f"the guard's patience is {self.patience}; it must be at least 1 batch.")
        for name in ("coefficient", "one_class"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise FedMergeError(f"the guard's {name} is {value}; it must be between 0 and 1.")
        if self.margin is not None and not self.margin >= 0:
            raise FedMergeError(f"the guard's margin is {self.margin}; it must be at least 0.")


class StreamMonitor(nn.Module):
    """What a guard has seen of a stream, and its reference. mean: the mean-merged network; copied."""

    def __init__(self, guard: Guard, mean: nn.Module) -> None:
        super().__init__()
        self.guard, self.task = guard, task_of(mean)
        self.mean = (
            copy.deepcopy(mean).eval() if guard.reference == "mean" or guard.margin is not None else None
        )
        for value in () if self.mean is None else (*self.mean.parameters(), *self.mean.buffers()):
            value.data = value.data.clone()  # a tensor of its own, not a view of the copied row
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.alone = self.single = 0

    def mean_logits(self, batch: Tensor) -> Tensor:
        """Return mean merging's logits for a batch, N x C: one pass."""
        assert self.mean is not None
        with taking(batch, "the mean-merged model"):
            return wide(logits_of(self.mean(batch)).flatten(1))

    def guarded(
        self,
        batch: Tensor,
        logits: Tensor,
        alpha: Tensor,
        answers: Answers | None,
        full: Answers | None,
        ask: Callable[[], Answers],
    ) -> tuple[Tensor, tuple[str, ...], int]:
        """Return the logits to answer with, the faults if they are the reference's, and the mean's passes.

        alpha, logits, answers: as in :meth:`faults`. full: the sources' answers if they are of the
        whole batch at full size; else ``ask`` gives these.
        """
        mean = None if self.guard.margin is None else self.mean_logits(batch)
        asked = int(mean is not None)
        faults = self.faults(alpha, logits, answers, mean)
        if not faults:
            return logits, faults, asked
        if self.guard.reference == "mean":
            return (mean, faults, asked) if mean is not None else (self.mean_logits(batch), faults, 1)
        return self.task.logits((ask() if full is None else full).mean().log()), faults, asked

    def faults(
        self, alpha: Tensor, logits: Tensor, answers: Answers | None, mean: Tensor | None
    ) -> tuple[str, ...]:
        """Return what is wrong on this batch, in words; empty where all is well.

        alpha: the encoder's coefficients. logits: the node's, N x C. answers: the sources', None where they
        were not asked. mean: mean merging's logits, N x C; None where ``margin`` is not set.
        """
        if not bool(logits.isfinite().all()):
            return ("the merged model's logits were not finite",)
        sources = None if answers is None else answers.mean()
        found = [self._alone(alpha), self._one_class(logits, sources), self._unsure(logits, mean)]
        return tuple(fault for fault in found if fault)

    def _alone(self, alpha: Tensor) -> str:
        limit = self.guard.coefficient
        if limit is None or len(alpha) < 2:
            return ""
        self.alone = self.alone + 1 if float(alpha.max()) > limit else 0
        if self.alone < self.guard.patience:
            return ""
        return f"one source had more than {limit:g} of the encoder for {self.alone} batches"

    def _one_class(self, logits: Tensor, sources: Tensor | None) -> str:
        limit = self.guard.one_class
        if limit is None:
            return ""
        predictions = self.task.p(logits).mean(dim=0)
        narrow = float(self.task.entropy_of(predictions)) < limit
        # where the sources were not asked, a collapse goes on but none begins
        far = (
            self.single > 0 if sources is None else self.task.distance(predictions, sources.mean(dim=0)) > FAR
        )
        self.single = self.single + 1 if narrow and far else 0
        if self.single < self.guard.patience:
            return ""
        found = self.task.commonest(predictions)
        return f"the merged model has predicted {found} for {self.single} batches, alone in that"

    def _unsure(self, logits: Tensor, mean: Tensor | None) -> str:
        if self.guard.margin is None or mean is None:
            return ""
        unsure, before = (sample_entropies(each, self.task).mean() for each in (logits, mean))
        excess = float(unsure - before)
        if excess <= self.guard.margin:
            return ""
        return f"the merged model's entropy is {excess:.2g} above mean merging's"
