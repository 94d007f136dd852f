"""A test-time method: for each batch, the model that is surest of it answers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fedmerge as fm


@fm.TESTTIME.method(
    "surest",
    title="The surest model answers",
    needs=fm.Needs(individual_models=True, unlabelled_batches=True),
)
class Surest:
    """Answer each batch with the model whose predictions have the lowest mean entropy on it.

    margin: how much lower, in nats, another model's must be before it takes over from the one before.
    """

    def __init__(self, models: Sequence[nn.Module], *, margin: float = 0.0) -> None:
        self.models = [model.eval() for model in models]
        self.margin = margin
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.forward_passes = self.backward_passes = 0.0
        self.chosen: int | None = None

    @torch.no_grad()
    def observe(self, batch: Tensor) -> tuple[Tensor, fm.Trace]:
        """Return the logits N x C of the chosen model, and which it was."""
        logits = torch.stack([model(batch) for model in self.models])  # M x N x C
        self.forward_passes += len(self.models)
        log_p = logits.log_softmax(dim=-1)
        entropies = -(log_p.exp() * log_p).sum(dim=-1).mean(dim=-1)  # M
        best = int(entropies.argmin())
        if self.chosen is None or entropies[best] < entropies[self.chosen] - self.margin:
            self.chosen = best
        share = tuple(float(i == self.chosen) for i in range(len(self.models)))
        scores = tuple((entropies / torch.tensor(float(logits.shape[-1])).log()).tolist())
        return logits[self.chosen], fm.Trace(share, share, scores, None, len(batch))
