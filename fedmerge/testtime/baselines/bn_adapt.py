"""BN-adapt: the batch's own batch-norm statistics instead of the sources'."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.start import MergedBatchNorm, Start, ask
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.norms import use_batch_statistics
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "bn-adapt",
    title="BN-adapt",
    paper="Improving robustness against common corruptions by covariate shift adaptation, arXiv 2006.16971",
    needs=Needs(unlabelled_batches=True),
    misfits={},
)
class BnAdapt(Start):
    """Predict with the mean-merged model, each batch norm on the statistics of the batch at hand.

        mean = N / (N + n) source_mean + n / (N + n) batch_mean,    var likewise,    n images in the batch

    source_images: N, how many images the source statistics count for; 0 (Nado et al., arXiv 2006.10963, and
    what Tent builds on) is the batch alone, equal to the forward pass of training mode without dropout.
    batch_norm: how source statistics are merged; it matters where N > 0.

    Cost: one forward pass a batch, none backward. Nothing is carried from batch to batch. A batch of one
    image has statistics over its pixels; a batch norm that then sees one value a channel keeps the source
    statistics where N = 0. Raises FedMergeError for a network without batch norm, N below zero, unfit models
    and batches, and logits that are not finite. One model alone, pooled training for instance, is its own
    mean.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        source_images: float = 0.0,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        if not 0 <= source_images < math.inf:
            raise FedMergeError(f"source_images is {source_images}; it must be a number not below 0.")
        super().__init__(models, batch_norm)
        if use_batch_statistics(self.model, source_images) == 0:
            raise FedMergeError(
                "bn-adapt replaces batch-norm statistics, but this network has no batch norm: leave it out, "
                "or use tent, which also adapts layer and group norms."
            )

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C."""
        logits = ask(self.model, batch)
        self.forward_passes += 1
        return logits, None
