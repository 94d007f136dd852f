"""The answers of a service, as JSON and in its OpenAPI description, and how they are made of a node's own."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedmerge.tasks import Task
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.entropy import sample_entropies


class Told(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class Prediction(Told):
    """One image's answer; numbers are the node's own float32, written so that they read back to the bit."""

    name: str = Field(description="The image's file, or its place in the npz.")
    predicted: str | list[str] = Field(
        description="The class; of several findings an image, those of a probability above one half."
    )
    confidence: float = Field(
        description="The probability of what is predicted; of findings the mean, where an absent one counts "
        "with the probability of its absence."
    )
    probabilities: dict[str, float] = Field(description="By class, or by finding, in their order.")
    logits: list[float] = Field(description="The network's outputs; the task says what they mean.")

    @property
    def said(self) -> list[str]:
        """What is predicted: one class, or any number of findings."""
        return [self.predicted] if isinstance(self.predicted, str) else self.predicted


class Leaning(Told):
    """What the batch's model was made of, by hospital; the shares of each part sum to one."""

    encoder: dict[str, float]
    head: dict[str, float]
    source_entropies: dict[str, float | None] = Field(
        description="Each hospital's score on the batch, by default its mean entropy; null: left out."
    )
    head_entropies: dict[str, float | None] | None = Field(
        description="Each hospital's head on the merged encoder; null where heads were not scored."
    )
    left_out: list[str] = Field(description="Hospitals whose outputs were not finite on this batch.")
    scored: bool = Field(description="Whether they were scored on this batch, or on an earlier one.")


class GuardState(Told):
    """Whether a guard watches the node, and why it answered by its reference on this batch."""

    armed: bool
    fallback: list[str]


class Drift(Told):
    """Whether the stream is as it was on its first batches."""

    alarm: bool
    since: int | None = Field(description="The batch of the alarm; it stays until the stream is reset.")
    reasons: list[str]


class Timings(Told):
    """Seconds: from the call to the whole body; decoding; waiting for the node; the node itself."""

    body: float
    read: float
    wait: float
    node: float


class Model(Told):
    """A model behind the answers."""

    name: str
    sha256: str


class Answer(Told):
    """The answer to a batch."""

    stream: str
    batch: int = Field(description="Its number since the stream's begin or last reset, from 1.")
    method: str
    images: list[Prediction]
    leaning: Leaning | None = Field(description="null where the method merges nothing for a batch.")
    entropy: float = Field(description="Mean normalised entropy of the answers, 0 to 1.")
    guard: GuardState
    drift: Drift
    notes: list[str] = Field(description="What was done to images: stretched to a square.")
    seconds: Timings
    models: list[Model]
    fingerprint: str = Field(description="SHA-256 of models, method and options: what decides the answers.")


class Fault(Told):
    """A call that was refused."""

    error: str


def predictions(names: Sequence[str], classes: Sequence[str], logits: Tensor, task: Task) -> list[Prediction]:
    """Return the answer of each image. classes: their names, or the findings'. logits: N x D."""
    best = task.predicted(logits)
    sure = task.p(logits).gather(-1, best[..., None])[..., 0]
    sure = sure.mean(dim=-1) if task.many else sure
    numbers = (best.tolist(), sure.tolist(), task.probabilities(logits).tolist(), logits.tolist())
    return [
        Prediction(
            name=name,
            predicted=[each for each, found in zip(classes, at, strict=True) if found]
            if task.many
            else classes[at],
            confidence=confidence,
            probabilities=dict(zip(classes, shares, strict=True)),
            logits=row,
        )
        for name, at, confidence, shares, row in zip(names, *numbers, strict=True)
    ]


def leaning(names: Sequence[str], trace: Trace | None) -> Leaning | None:
    """Return a trace by hospital; None where there is none."""
    if trace is None or len(trace.encoder) != len(names):
        return None

    def by_name(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(names, values, strict=True))

    heads = trace.head_entropies
    return Leaning(
        encoder=by_name(trace.encoder),
        head=by_name(trace.head),
        source_entropies=_known(by_name(trace.source_entropies)),
        head_entropies=None if heads is None else _known(by_name(heads)),
        left_out=[names[index] for index in trace.left_out],
        scored=trace.scored,
    )


def mean_entropy(logits: Tensor, task: Task) -> float:
    """Return the mean normalised entropy of the answers, 0 to 1. logits: N x D."""
    return float(sample_entropies(logits, task).mean())


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}
