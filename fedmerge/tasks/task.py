"""What a task decides: width of the head, loss, probabilities, predictions, entropy, and its score.

A prediction has two forms. ``logits`` (..., D) is what the head gives. ``log_p`` is the distribution it
means: (..., C) over classes, or (..., F, 2) over absent and present, a pair a finding. A mean of
distributions is one again, and ``logits`` turns it back into what a head would have given. So entropies,
divergences and ensembles are written once, over ``log_p``, and are right for every task.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


class Task(ABC):
    """One task; it has no state. See the module for the two forms of a prediction.

    name: as in a cohort. headline: the score that ranks and selects. many: whether an image has several
    labels (N x F of 0 and 1), or one (N). dims: the dimensions of a distribution, from behind. columns:
    whether output c is about class c alone. weighing: what weights of the loss are, in words.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    many: ClassVar[bool] = False
    dims: ClassVar[tuple[int, ...]] = (-1,)
    columns: ClassVar[bool] = False
    weighing: ClassVar[str] = "one for each class, in their order"

    @property
    def class_outputs(self) -> bool:
        """Whether an image has one class, and each class an output of its own, which can be attributed."""
        return self.columns and not self.many

    @abstractmethod
    def width(self, classes: int) -> int:
        """Return the number of outputs for so many classes or findings."""

    @abstractmethod
    def needed(self, labels: Tensor) -> int:
        """Return the number of outputs that these labels need at least."""

    def lacking(self, needed: int, width: int) -> str:
        """Say what a head of so many outputs lacks for labels that need others; empty where it fits."""
        if needed <= width:
            return ""
        return f"has labels that need {needed} outputs (task: {self.name}), but the model has {width}"

    @abstractmethod
    def log_p(self, logits: Tensor) -> Tensor:
        """Return the logarithm of the distribution that logits (..., D) mean."""

    @abstractmethod
    def logits(self, log_p: Tensor) -> Tensor:
        """Return logits (..., D) that mean a distribution; the inverse of :meth:`log_p`."""

    @abstractmethod
    def most_nats(self, width: int) -> float:
        """Return the largest entropy of a prediction with so many outputs, in nats."""

    @abstractmethod
    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the training loss, a mean over the images. smoothing: of labels. weights: ``weights``."""

    def weighed(self, width: int) -> int:
        """Return how many weights the loss takes, for a head of so many outputs."""
        return width

    @abstractmethod
    def balanced_weights(self, labels: Tensor, width: int) -> Tensor:
        """Return the weights that make classes, or presence and absence, count alike in the loss."""

    @abstractmethod
    def predicted(self, logits: Tensor) -> Tensor:
        """Return the predicted labels, in the form of labels."""

    @abstractmethod
    def outcomes(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions as choices of one in K: logits n x K, whose softmax are the probabilities,
        and labels n. Several findings an image are as many choices of one in two."""

    @abstractmethod
    def score(self, logits: Tensor, labels: Tensor) -> float:
        """Return the headline score of logits N x D against labels; NaN where it is not defined."""

    def decisions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the choices whose log-likelihoods add up to the labels', as logits for a temperature."""
        return self.outcomes(logits, labels)

    def p(self, logits: Tensor) -> Tensor:
        """Return the distribution that logits mean."""
        return self.log_p(logits).exp()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, or of each finding: N x C."""
        return self.p(logits)

    def _outputs(self, p: Tensor) -> int:
        """Return the number of outputs behind a distribution."""
        return self.width(p.shape[-1])

    def cross_entropy(self, p: Tensor, log_q: Tensor) -> Tensor:
        """Return ``- sum p log q`` of distributions, over the largest entropy: (...), 0 to 1 where p is q."""
        return -(p * log_q).sum(dim=self.dims) / self.most_nats(self._outputs(p))

    def entropy_of(self, p: Tensor) -> Tensor:
        """Return the entropy of distributions, over the largest there is: (...), within [0, 1]."""
        return torch.special.entr(p).sum(dim=self.dims) / self.most_nats(self._outputs(p))

    def entropy(self, logits: Tensor) -> Tensor:
        """Return the entropy of predictions, over the largest there is: logits (..., D) to (...), in [0, 1].

        Half precision is widened; the clamp keeps 0 * log 0 at 0 where a difference of logits overflows.
        """
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        log_p = self.log_p(logits).clamp(min=torch.finfo(logits.dtype).min)
        return -(log_p.exp() * log_p).sum(dim=self.dims) / self.most_nats(logits.shape[-1])

    def distance(self, p: Tensor, q: Tensor) -> float:
        """Return the total variation distance of two distributions, 0 to 1; over findings, their mean."""
        apart = 0.5 * (p - q).abs().sum(dim=-1)
        return float(apart if apart.ndim == 0 else apart.mean())

    def commonest(self, p: Tensor) -> str:
        """Say in words what a mean distribution predicts."""
        return f"class {int(p.argmax())}"

    def tally(self, counts: Sequence[int], images: int) -> Tensor:
        """Return how many images had each outcome, in the form of a distribution; counts: a class."""
        return torch.tensor(counts)

    def constant(self, tally: Tensor) -> tuple[Tensor, float]:
        """Return the logits of a predictor that gives every image the frequencies, and how often it is right.

        An outcome without an image has probability 1e-9.
        """
        numbers = tally.to(torch.float64)
        shares = (numbers / numbers.sum(dim=-1, keepdim=True)).clamp(min=1e-9)
        right = tally.amax(dim=-1) / tally.sum(dim=-1)
        return self.logits(shares.log()).float(), float(right.mean())

    def flipped(self, labels: Tensor, classes: int) -> Tensor:
        """Return labels turned round, as a hospital that lies has them: class c becomes C - 1 - c."""
        return classes - 1 - labels


class Multiclass(Task):
    """One class an image: softmax over C outputs, cross entropy."""

    name = "multiclass"
    headline = "accuracy"
    columns = True

    def width(self, classes: int) -> int:
        return classes

    def needed(self, labels: Tensor) -> int:
        return int(labels.max()) + 1

    def lacking(self, needed: int, width: int) -> str:
        if needed <= width:
            return ""
        return f"has label {needed - 1}, but the model has {width} classes, 0 to {width - 1}"

    def log_p(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, dim=-1)

    def p(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1)

    def logits(self, log_p: Tensor) -> Tensor:
        return log_p

    def most_nats(self, width: int) -> float:
        return math.log(width)

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)

    def balanced_weights(self, labels: Tensor, width: int) -> Tensor:
        """``n / (C n_c)`` over the classes that occur; 1 for others."""
        counts = torch.bincount(labels, minlength=width).double()
        weights = counts.sum() / (counts > 0).sum() / counts
        return torch.where(counts > 0, weights, 1.0).float()

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def outcomes(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return logits, labels

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """Accuracy."""
        return float((logits.argmax(dim=1) == labels).double().mean())
