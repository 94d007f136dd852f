"""T3A: the head's rows become class prototypes that follow the stream's surest features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    nats,
)
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.online import apart, carried
from fedmerge.testtime.options import Norms

SUPPORTS = ("z", "labels", "entropies")


@TESTTIME.method(
    "t3a",
    title="T3A",
    paper="Test-time classifier adjustment module for model-agnostic domain generalization, NeurIPS 2021",
    needs=Needs(features=True, unlabelled_batches=True),
    misfits={
        "multilabel": "each image supports the prototype of its one most likely class, and with several "
        "findings an image has no such class",
        "ordinal": "it takes each row of the head for a class's prototype; here rows stand between grades",
        "binary": "it takes each row of the head for a class's prototype; here is one row for two",
    },
)
class T3A(Normed):
    """Replace the linear head of the mean-merged model by prototypes of the features seen so far.

    Supports begin as the head's rows w_c, each with the arg-max class and the entropy the head gives it. A
    batch's features z are added with theirs; each class keeps its ``keep`` supports of lowest entropy, ties
    by age. Then

        mu_c = sum of z' / |z'| over the supports of class c, divided by its length,    logits_c = z . mu_c

    as coded in the reference: z itself is not normalised, which scales logits but no arg-max; the head's
    bias counts for entropies and classes of supports only; a class without support scores 0.

    keep: K of 1, 5, 20, 50, 100 in the paper's grid; None keeps all. 20 is our default. The reference means
    all by -1, and cuts its sorted list there: each batch it drops the least sure support of every class.
    norms: whose batch-norm statistics the network uses (``testtime.options.Norms``); of the stream, the
    features come from norms that have learned it, at two forward passes a batch. head_module: name of the
    classification head; found on the first batch where not given. batch_norm: merged variances of the
    ``"mixture"`` of moments, or their plain ``"average"``.

    Cost: one forward pass a batch (two with norms of the stream), none backward. Raises FedMergeError for a
    head that is not one linear layer, ``keep`` below one, unfit batches, and logits that are not finite.
    ``reset()`` forgets all supports but the head's rows. One model alone, pooled training for instance, is
    its own mean.
    """

    @apart()
    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        keep: int | None = 20,
        norms: Norms = OWN,
        head_module: str | None = None,
        batch_norm: MergedBatchNorm = "mixture",
    ) -> None:
        if keep is not None and keep < 1:
            raise FedMergeError(f"keep is {keep}; it must be at least 1 support a class, or None for all.")
        super().__init__(models, batch_norm, norms)
        self.keep = keep
        self.head_module = head_module
        self._checked = False
        self.supports: tuple[Tensor, Tensor, Tensor] | None = None

    def reset(self) -> None:
        """Start a new stream: no supports but the head's rows, no passes."""
        super().reset()
        self.supports = None

    @torch.no_grad()
    def answer(self, batch: Tensor) -> tuple[Tensor, None]:
        """Return the logits N x C by prototypes that include this batch."""
        seen: list[Tensor] = []
        head = self._linear(batch[:2])
        self.pass_over(batch, lambda x: self._pass(x, seen))
        rows = _scored(head, head.weight) if self.supports is None else self.supports
        new = _scored(head, seen[-1])
        z, labels, entropies = (torch.cat([old, added]) for old, added in zip(rows, new, strict=True))
        kept = _lowest(entropies, labels, self.keep)
        self.supports = z[kept], labels[kept], entropies[kept]
        return wide(seen[-1]) @ _prototypes(*self.supports[:2], len(head.weight)).T, None

    def stream_state(self) -> dict[str, Tensor]:
        """The supports: features, classes and entropies."""
        known = {} if self.supports is None else dict(zip(SUPPORTS, self.supports, strict=True))
        return known | super().stream_state()

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up the supports."""
        super().take_stream(state)
        if set(SUPPORTS) <= state.keys():
            z, labels, entropies = (state[name].to(next(self.model.parameters()).device) for name in SUPPORTS)
            self.supports = z, labels, entropies

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the supports."""
        super().moved(fn)
        if self.supports is not None:
            z, labels, entropies = (carried(fn, value) for value in self.supports)
            self.supports = z, labels, entropies

    def _pass(self, batch: Tensor, seen: list[Tensor]) -> Tensor:
        assert self.head_module is not None
        features, logits = features_and_logits(self.model, self.head_module, batch)
        seen.append(features.flatten(1))
        return logits

    def _linear(self, example: Tensor) -> nn.Linear:
        """The head, found or checked on the first batch."""
        if not self._checked:
            ask(self.model, example)
            self.head_module = named_head(self.model, self.head_module, example)
            self._checked = True
        assert self.head_module is not None
        head = self.model.get_submodule(self.head_module)
        if not isinstance(head, nn.Linear):
            raise FedMergeError(
                f"t3a needs a head that is one linear layer, but '{self.head_module}' is a "
                f"{type(head).__name__}: leave t3a out for this network."
            )
        return head


def _scored(head: nn.Linear, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features S x D, wide, with the class and the entropy that the head gives them."""
    logits = wide(head(z))
    return wide(z.detach().clone()), logits.argmax(dim=1), nats(logits)


def _lowest(entropies: Tensor, labels: Tensor, keep: int | None) -> Tensor:
    """The indices, in order, of each class's ``keep`` supports of lowest entropy."""
    if keep is None:
        return torch.arange(len(labels), device=labels.device)
    kept = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        kept.append(members[entropies[members].argsort(stable=True)[:keep]])
    return torch.cat(kept).sort().values


def _prototypes(z: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Prototypes C x D: the sum of each class's normalised supports, normalised."""
    members = functional.one_hot(labels, classes).to(z.dtype)
    return functional.normalize(members.T @ functional.normalize(z, dim=1), dim=1)
