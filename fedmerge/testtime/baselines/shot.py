"""SHOT, online: information maximisation and confident pseudo-labels, the head frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import group_of
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.start import (
    Baseline,
    MergedBatchNorm,
    Prediction,
    adapt,
    ask,
    check_step,
    mean_merged,
    named_head,
    nats,
)
from fedmerge.testtime.batch import check_batch
from fedmerge.testtime.methods import TESTTIME


@TESTTIME.method(
    "shot",
    title="SHOT, online",
    paper="Do we really need to access the source data?, arXiv 2002.08546; online as compared in T3A",
    needs=Needs(features=True, unlabelled_batches=True),
)
class Shot(Baseline):
    """Adapt the encoder under a frozen head: sure of each image, diverse over the batch.

        loss = mean_x H(p(x)) - H(mean_x p(x)) + theta CE(confident images, their own arg-max)

    From the mean-merged model, one Adam step a batch, entropies in nats, evaluation mode throughout (source
    batch-norm statistics). What was learned stays for the next batch.

    learning_rate: of Adam; ours (the reference takes 0.1, 1 and 10 times the training rate).
    pseudo_labels: theta, 0.1; confidence: images count as confident above this probability, 0.9; where none
    is, the last term is 0 (the reference's is not a number). steps, predict: as in tent.
    head_module: name of the classification head; found on the first batch where not given.
    batch_norm: merged variances of the ``"mixture"`` of moments, or their plain ``"average"``.

    The paper's pseudo-labels come from class centroids over the whole target set; online, as in T3A's
    comparison, from the batch's own arg-max. The reference adds 1e-5 to the mean probabilities before it
    takes their logarithm; here only those below 1e-12 are lifted, to that. The diversity term assumes batches
    of many classes: a batch of one class, or of one image (where the first two terms cancel), is pushed apart
    or not at all.

    Cost: ``steps`` forward and ``steps`` backward passes a batch, one more forward pass for ``"after"``.
    Raises FedMergeError as tent does, and for a network whose head cannot be found. ``reset()`` restores the
    mean-merged model bit for bit. One model alone, pooled training for instance, is its own mean.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        learning_rate: float = 1e-4,
        pseudo_labels: float = 0.1,
        confidence: float = 0.9,
        steps: int = 1,
        predict: Prediction = "before",
        head_module: str | None = None,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        super().__init__()
        check_step(learning_rate, steps, predict)
        if not 0 <= confidence <= 1 or not pseudo_labels >= 0:
            raise FedMergeError(
                f"confidence is {confidence} and pseudo_labels {pseudo_labels}: the first must be within "
                "[0, 1], the second not below 0."
            )
        self.learning_rate, self.steps, self.predict = learning_rate, steps, predict
        self.pseudo_labels, self.confidence = pseudo_labels, confidence
        self.head_module = head_module
        self.model = mean_merged(models, batch_norm)
        self.first: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def reset(self) -> None:
        """Start a new stream: the mean-merged model, a new Adam, no passes."""
        super().reset()
        adapted = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.first.items():
                adapted[name].copy_(value)
                adapted[name].grad = None
        self.optimizer = None

    def observe(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C and take the batch's step."""
        check_batch(batch)
        logits = adapt(
            self,
            lambda: ask(self.model, batch),
            self.loss,
            self.optimizer or self._begin(batch),
            self.steps,
            self.predict,
        )
        return logits, None

    def loss(self, logits: Tensor) -> Tensor:
        """The loss of logits N x C, in nats; a scalar."""
        log_p = logits.log_softmax(dim=1)
        mean = log_p.exp().mean(dim=0)
        total = nats(logits).mean() + torch.special.xlogy(mean, mean.clamp(min=1e-12)).sum()
        surest, labels = log_p.detach().max(dim=1)
        confident = surest.exp() > self.confidence
        if bool(confident.any()):
            total = total + self.pseudo_labels * functional.nll_loss(log_p[confident], labels[confident])
        return total

    def _begin(self, batch: Tensor) -> torch.optim.Optimizer:
        """A new Adam over the encoder; on the first batch of all, the head is found and kept out."""
        if not self.first:
            ask(self.model, batch[:2])
            head = self.head_module = named_head(self.model, self.head_module, batch[:2])
            encoder = {n: p for n, p in self.model.named_parameters() if group_of(n, head) == "encoder"}
            self.first = {name: value.detach().clone() for name, value in encoder.items()}
            for parameter in encoder.values():
                parameter.requires_grad_(True)
        adapted = dict(self.model.named_parameters())
        self.optimizer = torch.optim.Adam([adapted[name] for name in self.first], lr=self.learning_rate)
        return self.optimizer
