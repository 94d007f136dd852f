"""Ask a node's source models for their logits on a batch, and leave out those that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.flat import FlatModels
from fedmerge.models.heads import features_and_logits
from fedmerge.models.outputs import logits_of
from fedmerge.models.wide import wide
from fedmerge.tasks import MULTICLASS, Task, task_of
from fedmerge.testtime.batch import taking
from fedmerge.testtime.passes import Passes
from fedmerge.testtime.source_fit import norm_distances


@dataclass(frozen=True)
class Answers:
    """The sources' outputs for the images they were shown. A of the M sources gave finite outputs.

    logits: A x n x C, float32 or wider, each divided by its source's temperature. finite: int64 A, which
    sources. features: of each of the A encoders, where they were asked for. chosen: which images of the
    batch; None for all. distances: A, of their batch norms from this batch (``source_fit``), where asked for.
    """

    logits: Tensor
    finite: Tensor
    features: tuple[Tensor, ...] = ()
    chosen: Tensor | None = None
    distances: Tensor | None = None
    task: Task = MULTICLASS

    def mean(self) -> Tensor:
        """The mean probabilities, n x C, or the mean distribution of another task."""
        return self.task.p(self.logits).mean(dim=0)


def ask_all(
    sources: FlatModels,
    images: Tensor,
    temperatures: Tensor,
    head: str | None = None,
    chosen: Tensor | None = None,
    passes: Passes | None = None,
    norms: bool = False,
) -> Answers:
    """Ask every source about ``images``, n x C x H x W; with ``head``, keep what goes into it too.

    norms: whether to measure how far its batch norms are from the images. passes: how they are made; None:
    plainly. Raises FedMergeError for images the models cannot take, and where no source gives finite outputs.
    """
    passes = Passes(graphs=False) if passes is None else passes

    def one(index: int, batch: Tensor) -> tuple[Tensor, ...]:
        model = sources.model(index)
        found: tuple[Tensor, ...]
        with taking(batch, f"models[{index}]"), norm_distances(model, norms) as far:
            if head is None:
                found = (logits_of(model(batch), f"models[{index}]").flatten(1),)
            else:
                found = features_and_logits(model, head, batch)[::-1]
        return (*found, torch.stack(far).mean() if far else found[0].new_zeros(())) if norms else found

    def every(batch: Tensor) -> tuple[Tensor, ...]:
        outputs = passes.side_by_side([partial(one, index, batch) for index in range(len(sources))])
        logits = torch.stack([wide(output[0]) for output in outputs])
        distances = (torch.stack([wide(output[-1]) for output in outputs]),) if norms else ()
        return (logits, *distances, *(output[1] for output in outputs if head is not None))

    logits, *others = passes(f"sources, {head}, {norms}", every, images)
    distances, features = (others[0], others[1:]) if norms else (None, others)
    found = logits / temperatures[:, None, None]
    finite = torch.isfinite(found).flatten(1).all(dim=1).nonzero().flatten()
    if len(finite) == 0:
        who = "no source gives" if len(found) > 1 else "models[0] does not give"
        raise FedMergeError(
            f"{who} finite logits on this batch; check the weights and the batch's normalisation."
        )
    if len(finite) < len(found):
        found, features = found[finite], [features[i] for i in finite.tolist()] if features else []
        distances = None if distances is None else distances[finite]
    return Answers(found, finite, tuple(features), chosen, distances, task_of(sources.model(0)))


def together(logits: Tensor, answers: Answers, alpha: Tensor) -> Tensor:
    """Return the log of the mean of the merged model's and the alpha-weighted sources' probabilities, N x C.

    Images about which the sources were not asked keep the merged model's logits, as log-probabilities. Of
    another task, logits that mean the distribution.
    """
    task = answers.task
    log_p = task.log_p(logits)
    log_sources = task.log_p(answers.logits)
    log_sources = log_sources + alpha.log().view(-1, *[1] * (log_sources.ndim - 1))
    asked = slice(None) if answers.chosen is None else answers.chosen
    both = torch.stack([log_p[asked], log_sources.logsumexp(dim=0)]).logsumexp(dim=0) - math.log(2)
    log_p[asked] = both
    return task.logits(log_p)


def spread(values: Tensor, finite: Tensor, sources: int, missing: float) -> Tensor:
    """Put values of the A sources ``finite`` in their places among all M, along the first dimension."""
    if len(values) == sources:
        return values
    return values.new_full((sources, *values.shape[1:]), missing).index_copy(0, finite, values)


def check_temperatures(given: Sequence[float] | None, sources: int) -> Tensor:
    """Return each source's calibration temperature, 1 where none are given; FedMergeError if unfit."""
    if given is None:
        return torch.ones(sources)
    if len(given) != sources or not all(0 < value < float("inf") for value in given):
        raise FedMergeError(
            f"source_temperatures must be one positive number for each of the {sources} models; "
            f"given: {list(given)}."
        )
    return torch.tensor([float(value) for value in given])
