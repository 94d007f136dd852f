"""Grades in order, 0 < 1 < ... < K - 1, by continuation ratios: K - 1 outputs, each "higher than this?".

    P(y > j | y >= j) = sigmoid(z_j),    P(y = k) = (1 - sigmoid(z_k)) prod_{j < k} sigmoid(z_j)

The outputs and their meaning are CORN's (Shi, Cao and Raschka, arXiv 2111.08851); the loss is the likelihood
of the whole, - log P(y), where CORN divides the same terms by the number of questions asked. We chose it over
a softmax because its loss knows the order, and over cumulative links (CORAL, ordered logit) because its
outputs are one plain linear layer without order among thresholds: any network has such a head, a mean of two
is one again, and any distribution over grades can be written so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.tasks.scores import quadratic_kappa
from fedmerge.tasks.task import Multiclass, Task


class Ordinal(Task):
    """See the module. The predicted grade is the median: as many steps as have P(y > k) > 1/2."""

    name = "ordinal"
    headline = "kappa"

    def width(self, classes: int) -> int:
        return classes - 1

    def needed(self, labels: Tensor) -> int:
        return max(int(labels.max()), 1)

    def log_p(self, logits: Tensor) -> Tensor:
        higher = functional.logsigmoid(logits).cumsum(dim=-1)  # log P(y > j)
        reached = functional.pad(higher, (1, 0))  # log P(y >= k), of k = 0 ... K - 1
        return torch.cat([reached[..., :-1] + functional.logsigmoid(-logits), reached[..., -1:]], dim=-1)

    def logits(self, log_p: Tensor) -> Tensor:
        above = log_p.flip(-1).logcumsumexp(dim=-1).flip(-1)[..., 1:]  # log P(y > j)
        return above - log_p[..., :-1]

    def most_nats(self, width: int) -> float:
        return math.log(width + 1)

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """``- mean_n log P(y_n)``; smoothing and weights as cross entropy has them."""
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return functional.cross_entropy(self.log_p(wide), labels, weights, label_smoothing=smoothing)

    def weighed(self, width: int) -> int:
        return width + 1

    def balanced_weights(self, labels: Tensor, width: int) -> Tensor:
        return Multiclass().balanced_weights(labels, width + 1)

    def predicted(self, logits: Tensor) -> Tensor:
        return (functional.logsigmoid(logits).cumsum(dim=-1) > math.log(0.5)).sum(dim=-1)

    def constant(self, tally: Tensor) -> tuple[Tensor, float]:
        """Return logits that mean the frequencies, and how often their median grade is right."""
        logits, _ = super().constant(tally)
        return logits, float(tally[self.predicted(logits)] / tally.sum())

    def outcomes(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_p(logits), labels

    def decisions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The questions that an image's grade answers: "higher than j?" for each j up to it."""
        steps = torch.arange(logits.shape[-1], device=labels.device)
        asked = steps <= labels[:, None]
        z, yes = logits[asked], (steps < labels[:, None])[asked]
        return torch.stack([torch.zeros_like(z), z], dim=-1), yes.long()

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """Quadratic-weighted kappa of the predicted grades."""
        return quadratic_kappa(self.predicted(logits), labels, logits.shape[-1] + 1)
