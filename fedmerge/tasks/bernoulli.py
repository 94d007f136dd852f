"""Tasks of yes and no, a sigmoid an output: several findings an image, or one question."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedmerge.tasks.scores import macro_auroc
from fedmerge.tasks.task import Task

HEAVIEST = 100.0
"""The largest positive weight, and one over it the smallest: a finding seen once would drown all others."""


def pairs(z: Tensor) -> Tensor:
    """Return log-probabilities of no and yes, (..., 2), of log-odds z (...)."""
    return torch.stack([functional.logsigmoid(-z), functional.logsigmoid(z)], dim=-1)


class Bernoulli(Task):
    """Outputs z_f with p_f = sigmoid(z_f); the loss is binary cross entropy, a mean over outputs."""

    headline = "auroc"
    weighing = "how much a present finding counts beside an absent one, a number for each"

    def lacking(self, needed: int, width: int) -> str:
        """As many outputs as findings, or one, and no more."""
        if needed == width:
            return ""
        return f"has labels for {needed} outputs (task: {self.name}), but the model has {width}"

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """``- mean_nf [w_f y log p + (1 - y) log(1 - p)]``, with y smoothed to y (1 - s) + s / 2."""
        targets = labels.reshape(logits.shape).to(logits.dtype)
        if smoothing:
            targets = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)

    def balanced_weights(self, labels: Tensor, width: int) -> Tensor:
        """``w_f = absent_f / present_f``, within 1/100 and 100; 1 where one of the two has no image."""
        present = labels.reshape(len(labels), width).double().sum(0)
        absent = len(labels) - present
        weights = (absent / present).clamp(1 / HEAVIEST, HEAVIEST)
        return torch.where((present > 0) & (absent > 0), weights, 1.0).float()

    def predicted(self, logits: Tensor) -> Tensor:
        """Yes where the probability is above one half."""
        return (logits > 0).long()

    def decisions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        flat = logits.flatten()
        return torch.stack([torch.zeros_like(flat), flat], dim=-1), labels.flatten().long()

    def outcomes(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.decisions(logits, labels)


class MultiLabel(Bernoulli):
    """F findings an image, independent given the image: p(y) = prod_f p_f^y_f (1 - p_f)^(1 - y_f)."""

    name = "multilabel"
    many = True
    dims = (-2, -1)
    columns = True

    def width(self, classes: int) -> int:
        return classes

    def _outputs(self, p: Tensor) -> int:
        return p.shape[-2]

    def needed(self, labels: Tensor) -> int:
        return labels.shape[1]

    def log_p(self, logits: Tensor) -> Tensor:
        return pairs(logits)

    def logits(self, log_p: Tensor) -> Tensor:
        return log_p[..., 1] - log_p[..., 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def most_nats(self, width: int) -> float:
        return width * math.log(2)

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """Macro AUROC over the findings with both a positive and a negative image."""
        return macro_auroc(logits, labels)

    def commonest(self, p: Tensor) -> str:
        found = (p[:, 1] > 0.5).nonzero().flatten().tolist()
        return f"the findings {', '.join(map(str, found))}" if found else "no finding"

    def tally(self, counts: Sequence[int], images: int) -> Tensor:
        present = torch.tensor(counts)
        return torch.stack([images - present, present], dim=-1)

    def flipped(self, labels: Tensor, classes: int) -> Tensor:
        return 1 - labels


class Binary(Bernoulli):
    """Two classes, one output z: p(class 1) = sigmoid(z)."""

    name = "binary"

    def width(self, classes: int) -> int:
        return 1

    def _outputs(self, p: Tensor) -> int:
        return 1

    def needed(self, labels: Tensor) -> int:
        return max(int(labels.max()), 1)

    def log_p(self, logits: Tensor) -> Tensor:
        return pairs(logits[..., 0])

    def logits(self, log_p: Tensor) -> Tensor:
        return log_p[..., 1:] - log_p[..., :1]

    def predicted(self, logits: Tensor) -> Tensor:
        return super().predicted(logits)[..., 0]

    def most_nats(self, width: int) -> float:
        return math.log(2)

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """AUROC."""
        return macro_auroc(logits, labels[:, None])
