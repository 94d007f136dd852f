"""Evaluation: each method measured at a hospital, stream by stream and under scanner shift."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge.analysis import Metric, answers, reliability, scores
from fedmerge.data import streams
from fedmerge.experiment.configuration.config import EvaluationConfig
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.models.arrival import initial_statistics
from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.tasks import MULTICLASS, Task
from fedmerge.tasks.scores import aurocs
from fedmerge.testtime import Node

Row = dict[str, Any]
FINDING = "auroc: "
"""What the column of a finding's own AUROC begins with."""


@dataclass(frozen=True)
class Predictor:
    """A method ready to predict at a hospital: its label, its kind, and its model.

    ``model`` is a fixed network, or a test-time method that may look at each batch. ``forward_passes`` is
    what one prediction of a fixed network costs. ``validation``: its score on validation images of the
    hospitals that trained, the only number a choice may rest on. ``training``: accuracy on its training
    images in the last epoch, as training saw it; of several models their mean. ``sources``: the models behind
    a test-time method, where they are not those of the conditions.
    """

    label: str
    kind: str
    model: nn.Module | Node
    forward_passes: int = 1
    validation: float = math.nan
    training: float = math.nan
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One predictor measured on one stream: a result row, coefficients by batch, calibration by bin.

    failures: the sentence of each metric that failed, by its name; it is NaN in the row.
    """

    row: Row
    trace: list[Row] = field(default_factory=list)
    bins: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConditions:
    """How predictors are measured at a hospital.

    sources: the names of the models behind a test-time method. metrics: those to compute; None: all. task:
    what predictions mean. class_names: of findings, each of which has a score of its own where there are
    several an image.
    """

    evaluation: EvaluationConfig
    normalisation: Normalisation
    device: str
    sources: tuple[str, ...]
    metrics: tuple[Metric, ...] | None = None
    task: Task = MULTICLASS
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationTask:
    """One predictor on one stream, or on several that it predicts at once."""

    predictor: Predictor
    target_streams: TargetStreams
    shift: str
    severity: int
    conditions: EvaluationConditions

    @property
    def name(self) -> str:
        """The task's name among the predictor's: the first of its streams, shift and severity."""
        return f"{next(iter(self.target_streams.orders))} {self.shift} {self.severity}"

    def measure(self) -> Iterator[Measured]:
        """Yield one measurement per stream; coefficients and calibration only for unshifted images."""
        walk = _adapting if isinstance(self.predictor.model, Node) else _fixed
        look, clean = {"shift": self.shift, "severity": self.severity}, self.severity == 0
        for measured in walk(self.predictor, self.target_streams, self.conditions):
            trace, bins = (measured.trace, measured.bins) if clean else ([], [])
            yield Measured(measured.row | look, trace, bins, measured.failures)


def evaluation_tasks(
    predictor: Predictor, site: TargetStreams, conditions: EvaluationConditions
) -> Iterator[EvaluationTask]:
    """Yield the evaluation tasks of a predictor, in order; none depends on what was measured before it.

    A fixed network answers each image alone, so it predicts once for all orders of the same images; in a
    drift the images differ, and it predicts those too. A test-time method is reset at the start of each
    stream, sees each batch once, without labels, and predicts it after adapting to that batch. One that is
    ``order_free`` runs on the first of several streams of the same images only: its prediction for each
    image, its passes and its seconds hold for all.
    """
    node = predictor.model if isinstance(predictor.model, Node) else None
    apart = node is not None and not getattr(node, "order_free", False)
    for kind, severity, target_streams in site.views(conditions.evaluation.shifted):
        for part in target_streams.each() if apart else [target_streams]:
            yield EvaluationTask(predictor, part, kind, severity, conditions)


def _fixed(predictor: Predictor, site: TargetStreams, conditions: EvaluationConditions) -> Iterator[Measured]:
    assert isinstance(predictor.model, nn.Module)
    began = time.perf_counter()
    logits = predict(predictor.model, site.split.images, conditions.normalisation, device=conditions.device)
    seconds = time.perf_counter() - began
    passes = predictor.forward_passes, 0.0
    measured = _measured(predictor, conditions, logits, site.split.labels, *passes, seconds)
    for name in site.orders:
        yield _on(measured, name)


def _adapting(
    predictor: Predictor, site: TargetStreams, conditions: EvaluationConditions
) -> Iterator[Measured]:
    node = predictor.model
    assert isinstance(node, Node)
    free = getattr(node, "order_free", False)
    walked: _Walk | None = None
    for name, order in site.orders.items():
        if walked is None or not free:
            walked = _walk(predictor, node, site.split.images, order, conditions)
        else:
            walked = walked.along(order)
        labels = site.split.labels[torch.as_tensor(order)]
        passes = walked.forward_passes, walked.backward_passes
        seen = conditions, walked.logits, labels
        measured = _measured(predictor, *seen, *passes, walked.seconds, walked.trace)
        yield _on(measured, name)


@dataclass(frozen=True)
class _Walk:
    """A node's predictions along one order, and their cost; passes are those of one batch."""

    order: np.ndarray
    logits: Tensor
    trace: list[Row]
    forward_passes: float
    backward_passes: float
    seconds: float

    def along(self, order: np.ndarray) -> _Walk:
        """Return the same predictions in another order of the same images, without the trace of batches."""
        return replace(self, order=order, logits=self.logits[np.argsort(self.order)[order]], trace=[])


def _walk(
    predictor: Predictor, node: Node, images: Tensor, order: np.ndarray, conditions: EvaluationConditions
) -> _Walk:
    """Reset a node, and show it the images in this order, batch by batch."""
    sources = predictor.sources or conditions.sources
    node.reset()
    answers, trace = [], []
    began = time.perf_counter()
    for number, index in enumerate(streams.batches(order, conditions.evaluation.batch_size)):
        batch = conditions.normalisation(images[torch.as_tensor(index)].to(conditions.device))
        answer, record = node.observe(batch)
        answers.append(answer.float().cpu())
        if record is not None:
            trace += [
                {"batch": number, "source": source, "encoder": float(encoder), "head": float(head)}
                for source, encoder, head in zip(sources, record.encoder, record.head, strict=True)
            ]
    seconds, batches = time.perf_counter() - began, len(answers)
    passes = node.forward_passes / batches, node.backward_passes / batches
    return _Walk(order, torch.cat(answers), trace, *passes, seconds)


def _measured(
    predictor: Predictor,
    conditions: EvaluationConditions,
    logits: Tensor,
    labels: Tensor,
    forward: float,
    backward: float,
    seconds: float,
    trace: list[Row] | None = None,
) -> Measured:
    who = {"method": predictor.label, "kind": predictor.kind}
    failures: dict[str, str] = {}
    task = conditions.task
    row = {
        **who,
        **scores(logits, labels, conditions.metrics, failures, task),
        **({} if task is MULTICLASS else {"task": task.name}),
        **(_by_finding(logits, labels, conditions.class_names) if task.many else {}),
        **asdict(answers(logits, labels, task)),
        "validation": predictor.validation,
        "training_accuracy": predictor.training,
        "initial_statistics": initial_statistics(predictor.model),
        "forward_passes": float(forward),
        "backward_passes": float(backward),
        "seconds": seconds,
    }
    bins = [{**who, **bin} for bin in reliability(logits, labels, task=task).to_dict("records")]
    return Measured(row, trace or [], bins, failures)


def _by_finding(logits: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return the AUROC of each finding, as columns ``auroc: NAME``; NaN where it has images of one kind."""
    return {f"{FINDING}{name}": value for name, value in zip(names, aurocs(logits, labels), strict=True)}


def _on(measured: Measured, stream: str) -> Measured:
    """Return the same measurement with the name of one stream."""
    where = {"stream": stream}
    trace, bins = ([entry | where for entry in entries] for entries in (measured.trace, measured.bins))
    return Measured(measured.row | where, trace, bins, measured.failures)
