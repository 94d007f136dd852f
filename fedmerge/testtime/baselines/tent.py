"""Tent: entropy minimisation over the affine parameters of the normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.adapted import Adapted, UnderAdam
from fedmerge.testtime.baselines.start import (
    MergedBatchNorm,
    Prediction,
    Start,
    adapt,
    ask,
    check_step,
    nats,
)
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.norms import affine_parameters, use_batch_statistics
from fedmerge.testtime.online import apart


@TESTTIME.method(
    "tent",
    title="Tent",
    paper="Tent: fully test-time adaptation by entropy minimization, arXiv 2006.10726",
    needs=Needs(unlabelled_batches=True),
    misfits={},
)
class Tent(UnderAdam, Start):
    """Adapt scales and shifts of the norms by one step a batch on the mean entropy of its predictions.

    From the mean-merged model; scales and shifts of batch, layer, group and instance norms are trained with
    Adam, everything else stays. Batch norms use the batch's statistics, not the running ones. What was
    learned stays for the next batch.

    learning_rate: of Adam, 1e-3 as the paper's for small images; steps: a batch. predict: ``"before"`` as in
    the reference: the logits of the last step's own forward pass; ``"after"``: one more pass after it.
    batch_norm: how running statistics are merged; they serve only where a batch norm sees one value a
    channel (one image, no pixels left), which has no variance.

    Cost: ``steps`` forward and ``steps`` backward passes a batch, one more forward pass for ``"after"``.
    Raises FedMergeError for a network without affine norms, unfit options, models and batches, and logits
    that are not finite. ``reset()`` restores the mean-merged model bit for bit. One model alone, pooled
    training for instance, is its own mean.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        learning_rate: float = 1e-3,
        steps: int = 1,
        predict: Prediction = "before",
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        check_step(learning_rate, steps, predict)
        super().__init__(models, batch_norm)
        self.steps, self.predict = steps, predict
        use_batch_statistics(self.model)
        norms = affine_parameters(self.model)
        if not norms:
            raise FedMergeError(
                "tent adapts the scales and shifts of normalisation layers, but this network has none: "
                "leave it out, or use shot, which adapts every layer of the encoder."
            )
        for parameter in norms:
            parameter.requires_grad_(True)
        self.adapted = Adapted(self.model, norms, learning_rate)

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C and take the batch's step."""
        logits = adapt(
            self,
            lambda: ask(self.model, batch),
            lambda logits: nats(logits, self.task).mean(),
            self.adapted,
            self.steps,
            self.predict,
        )
        return logits, None
