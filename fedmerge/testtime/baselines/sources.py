"""Shared by methods that weigh the sources: the sources' logits, weights from scores, merging by image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedmerge.models.flat import FlatModels
from fedmerge.tasks import task_of
from fedmerge.testtime.baselines.start import MergedBatchNorm, ask
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import check_temperature
from fedmerge.testtime.methods import check_fits
from fedmerge.testtime.online import Online
from fedmerge.testtime.originals import Originals, agreeing, networks


class Weighed(Online):
    """A method that weighs the sources, ``sources``: rows of one matrix.

    No head is named in it, so the group ``"encoder"`` is every entry. merged: whether their weights are
    merged, or only their predictions; then they may differ in what is not averaged.
    """

    def __init__(
        self, models: Sequence[nn.Module], batch_norm: MergedBatchNorm, *, merged: bool = True
    ) -> None:
        super().__init__()
        found = networks(models)
        self.task = task_of(found[0])
        check_fits(type(self), self.task)
        if merged:
            agreeing(found)
        self.sources = FlatModels(found, found[0], head="", batch_norm=batch_norm)
        self.originals = Originals(found, merged=merged)


def source_logits(node: Online, sources: FlatModels, batch: Tensor) -> Tensor:
    """The logits of every source, M x N x C; M forward passes, counted on ``node``."""
    logits = [ask(sources.model(i), batch, f"models[{i}]") for i in range(len(sources))]
    node.forward_passes += len(sources)
    return torch.stack(logits)


def softmin(scores: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(-score / T)`` over the first dimension: weights of M sources that sum to one.

    T = inf gives 1/M each, T towards 0 everything to the lowest score, shared equally among ties. Raises
    FedMergeError where T is not positive.
    """
    check_temperature(temperature)
    if math.isinf(temperature):
        return torch.full_like(scores, 1 / len(scores))
    gaps = scores - scores.min(dim=0).values
    return torch.softmax(torch.where(gaps > 0, -gaps / temperature, gaps), dim=0)


def merged_logits(node: Online, sources: FlatModels, alpha: Tensor, batch: Tensor) -> Tensor:
    """The logits of the merged model: one for the batch (alpha: M), or one for each image (alpha: M x N).

    One forward pass either way: N models that see one image each see as many images as one that sees N.
    """
    node.forward_passes += 1
    if alpha.ndim == 1:
        sources.merge("encoder", alpha)
        return ask(sources.merged_model, batch, "the merged model")
    logits = []
    for image, weights in zip(batch, alpha.T, strict=True):
        sources.merge("encoder", weights.contiguous())
        logits.append(ask(sources.merged_model, image[None], "the merged model"))
    return torch.cat(logits)


def traced(alpha: Tensor, entropies: Tensor) -> Trace:
    """The trace of weights M, or M x N by image (then their means), and normalised entropies M x N."""
    weights = tuple((alpha if alpha.ndim == 1 else alpha.mean(dim=1)).tolist())
    return Trace(weights, weights, tuple(entropies.mean(dim=1).tolist()), None, entropies.shape[1])
