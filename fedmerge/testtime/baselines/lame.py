"""LAME: predictions corrected to agree with those of their neighbours, the model left as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import features_and_logits
from fedmerge.models.wide import wide
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.normed import OWN, Normed
from fedmerge.testtime.baselines.start import (
    MergedBatchNorm,
    ask,
    named_head,
)
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart
from fedmerge.testtime.options import Norms

TOLERANCE = 1e-8


@TESTTIME.method(
    "lame",
    title="LAME",
    paper="Parameter-free online test-time adaptation, arXiv 2201.05718",
    needs=Needs(features=True, unlabelled_batches=True),
    misfits={
        "multilabel": "it divides each image among classes that exclude one another, and findings do not"
    },
)
class Lame(Normed):
    """Laplacian adjusted maximum likelihood: each batch's predictions, smoothed over a neighbour graph.

    For predictions p_i of the mean-merged model, latent assignments y_i minimise

        sum_i KL(y_i | p_i) - sum_ij w_ij y_i . y_j

    by the fixed-point iteration y_i <- softmax(log p_i + sum_j w_ij y_j), begun at p_i, until the objective
    changes by less than 1e-8 of itself or ``steps`` iterations are done. w_ij is 1 where j is among the
    ``neighbours`` images of the batch nearest to i (Euclidean distance of L2-normalised features, i itself
    left out, ties by order), else 0. The logits returned are log y.

    neighbours: 5, at most N - 1 (the reference's kNN affinity). steps: at most, 100. norms: whose batch-norm
    statistics the network uses (``testtime.options.Norms``); of the stream, the features come from norms that
    have learned it, at two forward passes a batch. head_module: name of the classification head; found on the
    first batch where not given. batch_norm: merged variances of the ``"mixture"`` of moments, or their plain
    ``"average"``.

    Cost: one forward pass a batch (two with norms of the stream), none backward; N x N distances. Nothing is
    learned or carried from batch to batch; a batch of one image has no neighbours and keeps its prediction.
    Raises FedMergeError for unfit options and batches, and logits that are not finite. One model alone,
    pooled training for instance, is its own mean.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        neighbours: int = 5,
        steps: int = 100,
        norms: Norms = OWN,
        head_module: str | None = None,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        if neighbours < 1 or steps < 1:
            raise FedMergeError(f"neighbours is {neighbours} and steps {steps}; both must be at least 1.")
        super().__init__(models, batch_norm, norms)
        self.neighbours, self.steps = neighbours, steps
        self.head_module = head_module
        self._checked = False

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return log y, N x C, or the logits of another task that mean y."""
        if not self._checked:
            ask(self.model, batch[:2])
            self.head_module = named_head(self.model, self.head_module, batch[:2])
            self._checked = True
        seen: list[Tensor] = []
        logits = self.pass_over(batch, lambda x: self._pass(x, seen))
        graph = affinity(wide(seen[-1]), self.neighbours)
        return self.task.logits(smoothed(self.task.log_p(logits), graph, self.steps)), None

    def _pass(self, batch: Tensor, seen: list[Tensor]) -> Tensor:
        assert self.head_module is not None
        features, logits = features_and_logits(self.model, self.head_module, batch)
        seen.append(features.flatten(1))
        return logits


def affinity(features: Tensor, neighbours: int) -> Tensor:
    """The graph w, N x N of zeros and ones, of features N x D."""
    z = functional.normalize(features, dim=1)
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    nearest = distances.argsort(dim=1, stable=True)[:, : min(neighbours, len(z) - 1)]
    return torch.zeros_like(distances).scatter_(1, nearest, 1.0)


def smoothed(log_p: Tensor, weights: Tensor, steps: int) -> Tensor:
    """Iterate y <- softmax(log p + w y) from p; return log y, N x C."""
    log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min / 4)
    log_y, last = log_p, math.nan
    for _ in range(steps):
        pull = weights @ log_y.exp()
        log_y = (log_p + pull).log_softmax(dim=1)
        energy = float((log_y.exp() * (log_y - log_p - pull)).sum(dtype=torch.float64))
        if abs(energy - last) <= TOLERANCE * abs(last):
            break
        last = energy
    return log_y
