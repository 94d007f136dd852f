"""DaWin: merging coefficients from each source's entropy, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.sources import Weighed, merged_logits, softmin, source_logits, traced
from fedmerge.testtime.baselines.start import MergedBatchNorm
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import check_temperature, sample_entropies
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "dawin",
    title="DaWin",
    paper="DaWin: training-free dynamic weight interpolation, arXiv 2410.03782",
    needs=Needs(individual_models=True, unlabelled_batches=True),
    misfits={},
)
class DaWin(Weighed):
    """Merge the sources by each image's own entropies: lambda_i(x) = softmax_i(-H_i(x) / T).

    H_i(x) is the entropy of source i's prediction in nats, T = 1 (the paper's). With two sources
    lambda_1 = exp(-H_1) / (exp(-H_1) + exp(-H_2)), the paper's ratio.

    form: ``"sample"``: every image is predicted by its own merge sum_i lambda_i(x) theta_i; ``"batch"``: one
    merge a batch, with the mean of lambda(x) over its images. The paper's cheaper form, a Beta or Dirichlet
    mixture fitted to the coefficients of the whole test set, needs all images before the first answer and
    is left out, as is its optional offset. Encoder and head share the coefficients.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.

    Cost: M + 1 forward passes a batch in either form (N merged models that see one image each count as one
    pass over the batch), none backward; ``"sample"`` also writes N merged models and runs them one by one.
    Nothing is carried from batch to batch. Raises FedMergeError as entropy-weighted does.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        form: Literal["sample", "batch"] = "sample",
        temperature: float = 1.0,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        super().__init__(models, batch_norm)
        check_temperature(temperature)
        if form not in ("sample", "batch"):
            raise FedMergeError(f"unknown form '{form}'. Allowed: batch, sample.")
        self.form = form
        self.order_free = form == "sample"
        self.temperature = temperature

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, Trace]:
        """Return the logits N x C and the coefficients, by image their means."""
        logits = source_logits(self, self.sources, batch)
        entropies = sample_entropies(logits, self.task)
        by_image = softmin(entropies * self.task.most_nats(logits.shape[-1]), self.temperature)
        alpha = by_image if self.form == "sample" else by_image.mean(dim=1)
        return merged_logits(self, self.sources, alpha, batch), traced(alpha, entropies)
