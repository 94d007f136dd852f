"""Jensen-Shannon coefficients: the weights are merged by how much the predictions differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.tasks import MULTICLASS, Task
from fedmerge.testtime.baselines.sources import Weighed, merged_logits, softmin, source_logits, traced
from fedmerge.testtime.baselines.start import MergedBatchNorm
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import check_temperature, sample_entropies
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "js-coefficients",
    title="Jensen-Shannon coefficients",
    paper="T3: test-time model merging in VLMs for zero-shot medical imaging analysis, arXiv 2510.27265",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class JensenShannon(Weighed):
    """Merge the sources by the Jensen-Shannon divergence between their predictions, after T3.

    JS(p, q) = KL(p | m) / 2 + KL(q | m) / 2 with m = (p + q) / 2, in nats, at most log 2.

    rule: ``"generalist"``: T3's formula for two models, a generalist and an expert,

        theta = lambda theta_generalist + (1 - lambda) theta_expert,    lambda = sigmoid(gamma JS)

    so the expert counts most where both agree and the generalist gains where they differ. T3's generalist is
    the pretrained network; here it is the mean-merged model, and the expert the source of lowest entropy,
    which is ours, as are the limits 0 and 1 of lambda. ``"consensus"``, ours, for M equal sources:
    alpha = softmax(-JS_i / (T log 2)), JS_i between source i and the mean prediction of all sources.
    gamma: of ``"generalist"``, T3's 0.5; with it lambda is within [0.5, 0.586].
    temperature: T of ``"consensus"``.
    form: ``"batch"``: JS and entropy are means over the batch (T3_B), or ``"sample"``: each image gets its
    own merged model.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.

    Cost: M + 1 forward passes a batch, M + 2 with the generalist's own; none backward. Nothing is carried
    from batch to batch. Raises FedMergeError as entropy-weighted does.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        rule: Literal["generalist", "consensus"] = "generalist",
        form: Literal["batch", "sample"] = "batch",
        gamma: float = 0.5,
        temperature: float = 0.1,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        super().__init__(models, batch_norm)
        check_temperature(temperature)
        if rule not in ("generalist", "consensus"):
            raise FedMergeError(f"unknown rule '{rule}'. Allowed: consensus, generalist.")
        if form not in ("batch", "sample"):
            raise FedMergeError(f"unknown form '{form}'. Allowed: batch, sample.")
        if not math.isfinite(gamma):
            raise FedMergeError(f"gamma is {gamma}; it must be a number.")
        self.rule = rule
        self.form = form
        self.order_free = form == "sample"
        self.gamma = gamma
        self.temperature = temperature

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return the logits N x C and the coefficients, by image their means."""
        logits = source_logits(self, self.sources, batch)
        entropies = sample_entropies(logits, self.task)
        if self.rule == "consensus":
            mean = self.task.logits(self.task.log_p(logits).logsumexp(dim=0))  # up to a constant
            alpha = softmin(
                self._pooled(jensen_shannon(logits, mean, self.task)) / math.log(2), self.temperature
            )
        else:
            alpha = self._between(logits, entropies, batch)
        return merged_logits(self, self.sources, alpha, batch), traced(alpha, entropies)

    def _between(self, logits: Tensor, entropies: Tensor, batch: Tensor) -> Tensor:
        """Coefficients between the mean (1/M each) and the surest source: M, or M x N."""
        share = 1 / len(logits)
        uniform = torch.full_like(entropies[:, 0], share)
        generalist = merged_logits(self, self.sources, uniform, batch)
        surest = self._pooled(entropies).argmin(dim=0)
        expert = torch.zeros_like(self._pooled(entropies)).scatter_(0, surest[None], 1.0)
        divergence = self._pooled(jensen_shannon(logits, generalist, self.task))
        weight = torch.sigmoid(self.gamma * divergence.gather(0, surest[None]))
        return weight * share + (1 - weight) * expert

    def _pooled(self, scores: Tensor) -> Tensor:
        """Scores M x N as they are, or their means over the batch, M."""
        return scores if self.form == "sample" else scores.mean(dim=1)


def jensen_shannon(first: Tensor, second: Tensor, task: Task = MULTICLASS) -> Tensor:
    """The Jensen-Shannon divergence in nats of two logits (..., C), softmaxed: (...), within [0, log 2].

    Of several findings an image, its mean over findings.
    """
    floor = torch.finfo(first.dtype).min
    log_p, log_q = (task.log_p(logits).clamp(min=floor) for logits in (first, second))
    log_m = torch.logaddexp(*torch.broadcast_tensors(log_p, log_q)) - math.log(2)
    terms = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    each = (terms.sum(dim=-1) / 2).clamp(min=0, max=math.log(2))
    return each.mean(dim=-1) if task.many else each
