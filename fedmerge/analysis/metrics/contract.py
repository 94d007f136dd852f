"""What a metric receives and says of itself, and the registry of all metrics.

A metric is one function ``(predictions) -> float``, registered with ``@METRICS.metric(...)``. It owns its
name, its direction, its range, its format and what it needs; tables, leaderboards and reports ask it for
these.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError, short
from fedmerge.plugins import origin_of
from fedmerge.registry import Catalogue
from fedmerge.tasks import MULTICLASS, Task
from fedmerge.tasks.pairs import checked_logits, scored_pair

F = TypeVar("F", bound=Callable[..., Any])
Span = tuple[float, float]
Need = Literal["labels", "probabilities"]
Format = Literal["percent", "three", "count"]
ROUNDING = 1e-9
"""How far a plug-in's metric may lie outside its range."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions that a metric scores.

    logits: N x D, float64, on the CPU: what the head gives. labels: N, int64, or of several findings an image
    N x F; empty where they are not known (``labelled``). task: what they mean.
    """

    logits: Tensor
    labels: Tensor
    labelled: bool = True
    task: Task = MULTICLASS

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor | None, task: Task = MULTICLASS) -> Predictions:
        """Predictions from logits N x D of any type and labels, if known.

        Raises FedMergeError for logits and labels that do not fit together (``scored_pair``).
        """
        if labels is None:
            return cls(checked_logits(logits).double(), torch.empty(0, dtype=torch.int64), False, task)
        z, y = scored_pair(logits, labels, task)
        return cls(z.double(), y, True, task)

    @cached_property
    def probabilities(self) -> Tensor:
        """The probability of each class (softmax) or finding, N x C; NaN where logits have none."""
        return self.task.probabilities(self.logits)

    @cached_property
    def choices(self) -> tuple[Tensor, Tensor]:
        """The predictions as choices of one in K, and their labels (``Task.outcomes``)."""
        return self.task.outcomes(self.logits, self.labels)

    @cached_property
    def hits(self) -> Tensor:
        """Whether the predicted class of each image is right, N, or each finding, N x F; not where NaN."""
        known = ~self.logits.isnan()
        return (self.task.predicted(self.logits) == self.labels) & (known if self.task.many else known.all(1))

    @cached_property
    def counts(self) -> Tensor:
        """The number of images of each class, or with each finding, C."""
        if self.task.many:
            return self.labels.sum(0)
        return torch.bincount(self.labels, minlength=self.probabilities.shape[1])


@dataclass(frozen=True)
class Scale:
    """How the numbers of a column are read. words: its name in a sentence. heading: over a table's column.

    lower: whether less is better. span: the least and the greatest value; None: without ends. format:
    ``percent`` (a share of one), ``three`` decimals, or ``count``. short: the heading in a run's tables;
    None: it is not in those.
    """

    words: str
    heading: str
    lower: bool = False
    span: Span | None = None
    format: Format = "three"
    short: str | None = None

    @property
    def sign(self) -> int:
        """+1 where a large number is good, -1 where a small one is."""
        return -1 if self.lower else 1

    def text(self, value: float) -> str:
        """Return a number of the column as tables show it; a dash for NaN."""
        if math.isnan(value):
            return "–"
        if self.format == "percent":
            return f"{100 * value:.1f}"
        return f"{value:.1f}".removesuffix(".0") if self.format == "count" else f"{value:.3f}"


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    needs: ``labels``, ``probabilities``; where an image has no probabilities, or there are no labels, a
    metric that needs them is NaN and is not called. beside: further columns that explain it, by name. tasks:
    those that it is for; a run of another has no column of it.
    """

    name: str
    scale: Scale
    needs: frozenset[Need]
    call: Callable[[Predictions], float]
    beside: Mapping[str, Callable[[Predictions], float]] = field(default_factory=dict)
    tasks: tuple[str, ...] = (MULTICLASS.name,)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.call) or "").split("\n", 1)[0]

    @property
    def ranks(self) -> bool:
        """Whether a study can rank by it: it is a number from 0 to 1, or from -1."""
        return self.scale.span in ((0.0, 1.0), (-1.0, 1.0))

    def of(self, predictions: Predictions) -> float:
        """Return the score of predictions. Raises FedMergeError where a plug-in's metric fails."""
        if "labels" in self.needs and not predictions.labelled:
            return math.nan
        if "probabilities" in self.needs and predictions.probabilities.isnan().any():
            return math.nan
        value: Any = self.call(predictions)
        if origin_of(self.call) is None:
            return value
        try:
            found = float(value)
        except (TypeError, ValueError):
            raise FedMergeError(f"metric '{self.name}' returned {short(value)!r}, no number.") from None
        low, high = self.scale.span or (-math.inf, math.inf)
        if found < low - ROUNDING or found > high + ROUNDING:
            raise FedMergeError(
                f"metric '{self.name}' returned {found:g}, outside its range from {low:g} to {high:g}."
            )
        return found


class Metrics(Catalogue[Metric]):
    """All metrics, in the order of their columns."""

    def metric(
        self,
        name: str,
        *,
        title: str,
        better: Literal["higher", "lower"],
        range: tuple[float, float] | None,
        format: Format = "three",
        needs: tuple[Need, ...] = ("labels",),
        heading: str = "",
        short: str | None = "",
        beside: Mapping[str, Callable[[Predictions], float]] | None = None,
        tasks: tuple[str, ...] = (MULTICLASS.name,),
    ) -> Callable[[F], F]:
        """Decorate a function ``(predictions) -> float`` to register it as a metric.

        name: of its column in results.parquet. title: its name in sentences. better: its direction. range:
        the least and greatest value, or None. format, needs, beside, tasks: see ``Scale`` and ``Metric``.
        heading: over its column, ``title`` by default, with ``, %`` for a share. short: in a run's narrow
        tables; None: not there.
        """
        given = heading or title
        if format == "percent":
            given += ", %"
        span = None if range is None else (float(range[0]), float(range[1]))
        scale = Scale(
            title, given, better == "lower", span, format, (heading or title) if short == "" else short
        )

        def register(call: F) -> F:
            self.add(Metric(name, scale, frozenset(needs), call, dict(beside or {}), tasks))
            return call

        return register


METRICS = Metrics("metric", "fedmerge.metrics")
COSTS: dict[str, Scale] = {
    "validation": Scale("validation", "validation, %", span=(0.0, 1.0), format="percent"),
    "forward_passes": Scale("forward passes", "forward passes", lower=True, format="count"),
    "backward_passes": Scale("backward passes", "backward passes", lower=True, format="count"),
    "seconds": Scale("seconds", "seconds", lower=True),
    "training_seconds": Scale("training seconds", "training seconds", lower=True),
}
"""The measured columns that no metric computes: the score that a choice may rest on, and what it cost."""


def scale_of(column: str) -> Scale:
    """Return how the numbers of a column are read: of a metric, of a cost; plain for any other."""
    if column in COSTS:
        return COSTS[column]
    if column in METRICS:
        return METRICS[column].scale
    words = column.replace("_", " ")
    return Scale(words, words)
