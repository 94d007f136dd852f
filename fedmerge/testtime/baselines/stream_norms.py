"""Stream norms: one network whose batch norms learn the unseen site's scanner, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.normed import PRIOR, Learn, Normed
from fedmerge.testtime.baselines.start import MergedBatchNorm
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart
from fedmerge.testtime.options import Norms
from fedmerge.testtime.weighting import check_word


@TESTTIME.method(
    "stream-norms",
    title="Stream norms",
    paper="ours, on balanced batch normalization, TRIBE, arXiv 2309.14949",
    needs=Needs(unlabelled_batches=True),
)
class StreamNorms(Normed):
    """Predict with the mean-merged model, its batch norms on the statistics of the stream so far.

    The norms of ``stream-adaptive`` (``testtime/stream_norms.py``) without its coefficients: what is left of
    that method when all sources count alike, at one or two passes a batch in place of M + 1. The class of an
    image comes from the network itself. Given one model, pooled training or the federated one, from that.

    prior: for how many images the source statistics count. by_class: whether moments are kept class by class
    and averaged over classes, or over all images alike. learn: ``"before"``: a batch is learned from, then
    answered, two passes; ``"after"``: answered by what was learned before it, one pass.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.

    Cost: two forward passes a batch, or one; none backward. Raises FedMergeError for a network without batch
    norm that has statistics, unfit options and batches, and logits that are not finite.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        prior: float = PRIOR,
        by_class: bool = True,
        learn: Learn = "before",
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        check_word("time to learn", learn, Learn)
        super().__init__(models, batch_norm, Norms("stream", prior, by_class), learn)
        if self.stream.norms == 0:
            raise FedMergeError(
                "stream-norms learns batch-norm statistics, but this network has no batch norm that keeps "
                "any: leave it out, or use tent, which also adapts layer and group norms."
            )

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C."""
        return self.pass_over(batch), None
