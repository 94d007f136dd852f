"""Deployment: what a hospital gets from each method, stream by stream and under scanner shift."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmerge.analysis import answers, reliability, scores
from fedmerge.data import Appearance, Split, scanner, streams
from fedmerge.experiment.config import EvaluationConfig
from fedmerge.files import make_folder
from fedmerge.models.arrival import initial_statistics
from fedmerge.models.inputs import Normalisation
from fedmerge.models.predict import predict
from fedmerge.models.weights import write_weights
from fedmerge.testtime import Node

Row = dict[str, Any]
CLEAN = ("none", 0)


@dataclass(frozen=True)
class Predictor:
    """A method at the door of a hospital: its label, its kind, and what answers there.

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
    """What one candidate did on one stream: a result row, coefficients by batch, calibration by bin."""

    row: Row
    trace: list[Row] = field(default_factory=list)
    bins: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class TargetStreams:
    """What arrives at a hospital: its images in one split, and the orders they come in, by stream.

    drifts: the scanner shift of each stream during which the scanner drifts.
    """

    name: str
    split: Split
    orders: dict[str, np.ndarray]
    seed: int
    drifts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, split: Split, evaluation: EvaluationConfig, seed: int) -> TargetStreams:
        """Draw the configured streams of one hospital; each holds every image once."""
        orders = {
            spec.name: streams.order(spec, split.labels, evaluation.batch_size, seed, name, split.groups)
            for spec in evaluation.streams
        }
        drifts = {spec.name: spec.shift for spec in evaluation.streams if spec.shift is not None}
        return cls(name, split, orders, seed, drifts)

    def views(self, shifts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, TargetStreams]]:
        """How the images look, each with the streams that show them so: (kind, severity, arrivals).

        As they are; in each drift, whose severity changes on the way and is said by the stream's name alone
        (none, 0); and under each fixed shift, which is not put on top of a drift.
        """
        still = {name: order for name, order in self.orders.items() if name not in self.drifts}
        as_is = TargetStreams(self.name, self.split, still, self.seed)
        if still:
            yield *CLEAN, as_is
        for name, kind in self.drifts.items():
            order = self.orders[name]
            images = streams.drifted(self.split.images, order, kind, self.seed, f"{self.name}, shifted")
            yield (
                *CLEAN,
                TargetStreams(self.name, replace(self.split, images=images), {name: order}, self.seed),
            )
        if still:
            yield from ((kind, severity, as_is.shifted(kind, severity)) for kind, severity in shifts)

    def each(self) -> Iterator[TargetStreams]:
        """The streams one by one."""
        return (replace(self, orders={name: order}) for name, order in self.orders.items())

    def parts(self, shifts: Sequence[tuple[str, int]]) -> int:
        """How many streams ``views`` gives in all."""
        return len(self.orders) + (len(self.orders) - len(self.drifts)) * len(shifts)

    def shifted(self, kind: str, severity: int) -> TargetStreams:
        """The same images in the same orders, as another scanner shows them."""
        look = [Appearance(kind=kind, severity=severity)]
        images = scanner.apply(self.split.images, look, self.seed, f"{self.name}, shifted")
        return TargetStreams(self.name, replace(self.split, images=images), self.orders, self.seed)


@dataclass(frozen=True)
class EvaluationConditions:
    """Under what a hospital's images are met; ``sources`` names the models behind a test-time method."""

    evaluation: EvaluationConfig
    normalisation: Normalisation
    device: str
    sources: tuple[str, ...]


def save_streams(site: TargetStreams, folder: Path) -> None:
    """Write the orders as int64 tensors, one a stream, to streams.safetensors."""
    make_folder(folder)
    orders = {name: torch.from_numpy(order) for name, order in site.orders.items()}
    write_weights(folder / "streams.safetensors", orders)


def evaluate_predictor(
    candidate: Predictor, site: TargetStreams, under: EvaluationConditions
) -> Iterator[Measured]:
    """Run one candidate on every stream, as the images are and then under each configured scanner shift.

    A fixed network answers each image alone, so it predicts once and its scores hold for every order of the
    same images; in a drift the images differ, and it predicts those too.
    A test-time method is reset at the start of each stream, sees each batch once, without labels, and
    predicts it with what it made of that batch. One that is ``order_free`` is asked on the first of several
    streams of the same images alone: what it said of each image, its passes and its seconds hold for all.
    """
    for cell in evaluation_tasks(candidate, site, under):
        yield from cell.measure()


@dataclass(frozen=True)
class EvaluationTask:
    """What of a deployment cannot be told apart: one candidate on one stream, or on several at once."""

    candidate: Predictor
    arrivals: TargetStreams
    shift: str
    severity: int
    under: EvaluationConditions

    @property
    def name(self) -> str:
        """Its name among the candidate's cells: the first of its streams, and how the images look."""
        return f"{next(iter(self.arrivals.orders))} {self.shift} {self.severity}"

    def measure(self) -> Iterator[Measured]:
        """One measurement a stream; coefficients and calibration only for the images as they are."""
        walk = _adapting if isinstance(self.candidate.model, Node) else _fixed
        look, clean = {"shift": self.shift, "severity": self.severity}, self.severity == 0
        for measured in walk(self.candidate, self.arrivals, self.under):
            yield Measured(
                measured.row | look, measured.trace if clean else [], measured.bins if clean else []
            )


def evaluation_tasks(
    candidate: Predictor, site: TargetStreams, under: EvaluationConditions
) -> Iterator[EvaluationTask]:
    """The parts of a deployment, in order: each gives the same whatever was measured before it.

    A test-time method begins anew with each stream. What predicts images once for all their orders, a fixed
    network or a method that is ``order_free``, has all streams of a look in one.
    """
    node = candidate.model if isinstance(candidate.model, Node) else None
    apart = node is not None and not getattr(node, "order_free", False)
    for kind, severity, arrivals in site.views(under.evaluation.shifted):
        for part in arrivals.each() if apart else [arrivals]:
            yield EvaluationTask(candidate, part, kind, severity, under)


def _fixed(candidate: Predictor, site: TargetStreams, under: EvaluationConditions) -> Iterator[Measured]:
    assert isinstance(candidate.model, nn.Module)
    began = time.perf_counter()
    logits = predict(candidate.model, site.split.images, under.normalisation, device=under.device)
    seconds = time.perf_counter() - began
    measured = _measured(candidate, logits, site.split.labels, candidate.forward_passes, 0.0, seconds)
    for name in site.orders:
        yield _on(measured, name)


def _adapting(candidate: Predictor, site: TargetStreams, under: EvaluationConditions) -> Iterator[Measured]:
    node = candidate.model
    assert isinstance(node, Node)
    free = getattr(node, "order_free", False)
    walked: _Walk | None = None
    for name, order in site.orders.items():
        if walked is None or not free:
            walked = _walk(candidate, node, site.split.images, order, under)
        else:
            walked = walked.along(order)
        labels = site.split.labels[torch.as_tensor(order)]
        passes = walked.forward_passes, walked.backward_passes
        measured = _measured(candidate, walked.logits, labels, *passes, walked.seconds, walked.trace)
        yield _on(measured, name)


@dataclass(frozen=True)
class _Walk:
    """What a node said along one order, at what cost; passes are those of one batch."""

    order: np.ndarray
    logits: Tensor
    trace: list[Row]
    forward_passes: float
    backward_passes: float
    seconds: float

    def along(self, order: np.ndarray) -> _Walk:
        """The same answers in another order of the same images; of its batches there is no trace."""
        return replace(self, order=order, logits=self.logits[np.argsort(self.order)[order]], trace=[])


def _walk(
    candidate: Predictor, node: Node, images: Tensor, order: np.ndarray, under: EvaluationConditions
) -> _Walk:
    """Show a node, reset before, the images in this order, batch by batch."""
    sources = candidate.sources or under.sources
    node.reset()
    answers, trace = [], []
    began = time.perf_counter()
    for number, index in enumerate(streams.batches(order, under.evaluation.batch_size)):
        batch = under.normalisation(images[torch.as_tensor(index)].to(under.device))
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
    candidate: Predictor,
    logits: Tensor,
    labels: Tensor,
    forward: float,
    backward: float,
    seconds: float,
    trace: list[Row] | None = None,
) -> Measured:
    who = {"method": candidate.label, "kind": candidate.kind}
    row = {
        **who,
        **asdict(scores(logits, labels)),
        **asdict(answers(logits, labels)),
        "validation": candidate.validation,
        "training_accuracy": candidate.training,
        "initial_statistics": initial_statistics(candidate.model),
        "forward_passes": float(forward),
        "backward_passes": float(backward),
        "seconds": seconds,
    }
    bins = [{**who, **bin} for bin in reliability(logits, labels).to_dict("records")]
    return Measured(row, trace or [], bins)


def _on(measured: Measured, stream: str) -> Measured:
    """The same measurement, said of one stream."""
    where = {"stream": stream}
    trace, bins = ([entry | where for entry in entries] for entries in (measured.trace, measured.bins))
    return Measured(measured.row | where, trace, bins)
