"""alpha-BN: batch-norm statistics between the sources' and the batch's, at a fixed share."""

from __future__ import annotations

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
    "alpha-bn",
    title="alpha-BN",
    paper="Test-time batch statistics calibration for covariate shift, arXiv 2110.04065",
    needs=Needs(unlabelled_batches=True),
)
class AlphaBn(Start):
    """Predict with the mean-merged model, each batch norm between its own statistics and the batch's.

        mean = (1 - alpha) source_mean + alpha batch_mean,    var likewise

    alpha: the batch's share, 0 (the source statistics) to 1 (the batch's). batch_norm: how source statistics
    are merged.

    Departures: the paper's alpha is the source's share; its training of alpha-BN by an entropy loss (CORE) is
    left out. Where ``bn-adapt`` counts images, so that small batches count less, this share is the same for
    every batch.

    Cost: one forward pass a batch, none backward. Nothing is carried from batch to batch. Raises
    FedMergeError for a network without batch norm, alpha out of range, unfit models and batches, and logits
    that are not finite. One model alone, pooled training for instance, is its own mean.
    """

    @apart()
    def __init__(
        self, models: Sequence[nn.Module], *, alpha: float = 0.5, batch_norm: MergedBatchNorm = "mixture"
    ) -> None:
        if not 0 <= alpha <= 1:
            raise FedMergeError(f"alpha is {alpha}; it must be a share from 0 (sources) to 1 (batch).")
        super().__init__(models, batch_norm)
        if use_batch_statistics(self.model, source_share=1 - alpha) == 0:
            raise FedMergeError(
                "alpha-bn mixes batch-norm statistics, but this network has no batch norm: leave it out, or "
                "use tent, which also adapts layer and group norms."
            )

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C."""
        logits = ask(self.model, batch)
        self.forward_passes += 1
        return logits, None
