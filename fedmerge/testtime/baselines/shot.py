"""SHOT, online: information maximisation and confident pseudo-labels, the head frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.models.heads import group_of
from fedmerge.registry import Needs
from fedmerge.testtime.baselines.adapted import Adapted
from fedmerge.testtime.baselines.start import (
    MergedBatchNorm,
    Prediction,
    Start,
    adapt,
    ask,
    check_step,
    named_head,
    nats,
)
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart, as_bytes, as_text


@TESTTIME.method(
    "shot",
    title="SHOT, online",
    paper="Do we really need to access the source data?, arXiv 2002.08546; online as compared in T3A",
    needs=Needs(features=True, unlabelled_batches=True),
    misfits={
        "multilabel": "its diversity term takes all classes for equally common: it would push each "
        "finding to be there in half of the images"
    },
)
class Shot(Start):
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

    @apart()
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
        check_step(learning_rate, steps, predict)
        if not 0 <= confidence <= 1 or not pseudo_labels >= 0:
            raise FedMergeError(
                f"confidence is {confidence} and pseudo_labels {pseudo_labels}: the first must be within "
                "[0, 1], the second not below 0."
            )
        super().__init__(models, batch_norm)
        self.learning_rate, self.steps, self.predict = learning_rate, steps, predict
        self.pseudo_labels, self.confidence = pseudo_labels, confidence
        self.head_module = head_module
        self.adapted: Adapted | None = None

    def reset(self) -> None:
        """Start a new stream: the mean-merged model, a new Adam, no passes."""
        super().reset()
        if self.adapted is not None:
            self.adapted.begin()

    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C and take the batch's step."""
        logits = adapt(
            self,
            lambda: ask(self.model, batch),
            self.loss,
            self._begin(batch) if self.adapted is None else self.adapted,
            self.steps,
            self.predict,
        )
        return logits, None

    def loss(self, logits: Tensor) -> Tensor:
        """The loss of logits N x C, in nats; a scalar."""
        log_p = self.task.log_p(logits)
        mean = log_p.exp().mean(dim=0)
        total = nats(logits, self.task).mean() + torch.special.xlogy(mean, mean.clamp(min=1e-12)).sum()
        surest, labels = log_p.detach().max(dim=1)
        confident = surest.exp() > self.confidence
        if bool(confident.any()):
            total = total + self.pseudo_labels * functional.nll_loss(log_p[confident], labels[confident])
        return total

    def stream_state(self) -> dict[str, Tensor]:
        """The name of the head, and Adam's moments, once the first batch was met."""
        if self.adapted is None or self.batches == 0:
            return {}
        return {"head": as_bytes(self.head_module or "")} | self.adapted.state()

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up Adam's moments."""
        if "head" in state:
            self.head_module = as_text(state["head"])
            adapted = self._over(self.head_module) if self.adapted is None else self.adapted
            adapted.take(state)

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move Adam."""
        if self.adapted is not None:
            self.adapted.moved(fn)

    def _begin(self, batch: Tensor) -> Adapted:
        """Adam over the encoder: on the first batch of all, the head is found and kept out."""
        ask(self.model, batch[:2])
        self.head_module = named_head(self.model, self.head_module, batch[:2])
        return self._over(self.head_module)

    def _over(self, head: str) -> Adapted:
        encoder = [p for name, p in self.model.named_parameters() if group_of(name, head) == "encoder"]
        for parameter in encoder:
            parameter.requires_grad_(True)
        self.adapted = Adapted(self.model, encoder, self.learning_rate)
        return self.adapted
