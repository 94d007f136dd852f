"""Entropy-weighted ensemble: the weights of entropy-adaptive merging, on predictions instead of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.sources import Weighed, softmin, source_logits, traced
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import check_temperature, sample_entropies
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "entropy-weighted",
    title="Entropy-weighted ensemble",
    paper="The Mean is the Mirage, arXiv 2602.21372 (its coefficients, without merging)",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class EntropyWeighted(Weighed):
    """Average the sources' predictions, weighted by how sure each source is of the batch.

        p(x) = sum_i alpha_i p_i(x),    alpha = softmax(-H_i / T)

    with H_i the mean normalised entropy of source i over the batch (``form="batch"``) or its entropy on x
    (``form="sample"``). The logits returned are log p. The same weights as entropy-adaptive merging with
    shared coefficients, so the two differ by "weighting predictions" against "merging weights" alone; T = 0.1
    is the default of both, infinity is the probability ensemble.

    Cost: M forward passes a batch, none backward. Nothing is carried from batch to batch; a batch of one
    image is weighted by that image. Raises FedMergeError for no model, models of different architectures,
    T not above zero, unfit batches, and a source whose logits are not finite.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        temperature: float = 0.1,
        form: Literal["batch", "sample"] = "batch",
    ) -> None:
        super().__init__(models, "mixture", merged=False)
        check_temperature(temperature)
        if form not in ("batch", "sample"):
            raise FedMergeError(f"unknown form '{form}'. Allowed: batch, sample.")
        self.temperature = temperature
        self.form = form
        self.order_free = form == "sample"

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return log p, N x C (of another task, logits that mean p), and the weights."""
        logits = source_logits(self, self.sources, batch)
        entropies = sample_entropies(logits, self.task)
        scores = entropies.mean(dim=1) if self.form == "batch" else entropies
        alpha = softmin(scores, self.temperature)
        log_p = self.task.log_p(logits)
        weights = alpha.reshape(len(alpha), -1, *[1] * (log_p.ndim - 2))  # M x 1 x 1, or M x N x 1
        log_p = (log_p + weights.log()).logsumexp(dim=0)
        return self.task.logits(log_p), traced(alpha, entropies)
