"""The jobs that a server may send to a hospital: a class for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmerge.federation.messages.fields import Digest, Images, Name, Round, Told
from fedmerge.federation.plan.fault_injection import Kind as FaultKind
from fedmerge.federation.plan.personal import Personal
from fedmerge.federation.plan.privacy import LocalPrivacy
from fedmerge.merging.attribution.importance import Kind as Importance
from fedmerge.models.inputs import Inputs
from fedmerge.models.zoo import ModelSpec
from fedmerge.schema.validation import Seed
from fedmerge.training import TrainingOptions

MOST_HOSPITALS = 100_000
Part = Annotated[float, Field(ge=0, le=1)]
LayerName = Annotated[str, Field(min_length=1, max_length=300)]


class GreetingJob(Told):
    """Reply with name and counts. proposal: the experiment, for a hospital that decides about it."""

    proposal: dict[str, Any] | None = None


class InspectJob(Told):
    """Describe your images. minimum: suppress counts below it. checks: tell what the checks of the images
    find, too."""

    minimum: int = Field(default=5, ge=1, le=10**6)
    checks: bool = False


class MemoryJob(Told):
    """Reply with the client state. The job has no fields."""


class NetworkJob(Told):
    """The base of all jobs about a model: the network, how images become its input, the run's seed."""

    model: ModelSpec
    normalisation: Inputs
    seed: Seed


class InjectedFault(Told):
    """One injected fault (``fault_injection.Fault.told``)."""

    kind: FaultKind
    seconds: float | None = Field(None, gt=0, le=1e9)
    scale: float | None = None


class TrainJob(NetworkJob):
    """Train the model.

    span: the part of the learning-rate schedule that this round covers. start: ``own`` trains from an
    initialisation of the hospital's own; no weights are sent then. personal: the part of the model that the
    hospital keeps to itself; since: the last round after which it should have one. control: the arrays have
    the server's control variate, too, and the hospital's own is that after ``since``. privacy: the local
    noise on the hospital's update.
    """

    training: TrainingOptions
    round: Round
    purpose: Literal["round", "fine-tune"]
    span: tuple[Part, Part]
    start: Literal["shared", "own"] = "shared"
    personal: Personal = "none"
    since: Round = 0
    control: bool = False
    privacy: LocalPrivacy | None = None
    faults: tuple[InjectedFault, ...] = Field((), max_length=100)

    @model_validator(mode="after")
    def _span_goes_on(self) -> TrainJob:
        if self.span[0] >= self.span[1]:
            raise ValueError("span must begin before it ends")
        return self

    @model_validator(mode="after")
    def _one_thing_is_kept(self) -> TrainJob:
        if self.control and (self.start, self.personal, self.privacy) != ("shared", "none", None):
            raise ValueError("control goes with a shared start alone, without personal and privacy")
        return self


class EvaluateJob(NetworkJob):
    """Score a model. calibrate: fit a temperature, too. personal: with the hospital's own part in it."""

    calibrate: bool = False
    personal: Personal = "none"


class RestoreJob(NetworkJob):
    """Load the client state from the server's journal; without arrays: clear it."""

    personal: Personal = "none"
    control: bool = False


class SumsBeginJob(NetworkJob):
    """Take the parents of a fusion. parents: their names, in order. images: their number, by hospital."""

    parents: list[Annotated[str, Field(max_length=300)]] = Field(min_length=1, max_length=MOST_HOSPITALS)
    images: dict[Name, Images] = Field(min_length=1, max_length=MOST_HOSPITALS)
    split: Literal["val", "train"]
    session: Digest


class NoOptions(Told):
    """No options."""


class OuterOptions(Told):
    """The layers, and whether after a ReLU."""

    layers: list[LayerName] = Field(max_length=10_000)
    activation: Literal["none", "relu"] = "none"


class ImportanceOptions(Told):
    """The kind of importance."""

    kind: Importance


class LayerOptions(Told):
    """The layer."""

    name: LayerName


class NormOptions(Told):
    """The batch norm, by its number."""

    index: int = Field(ge=0, le=10_000)


SUMS_OPTIONS: dict[str, type[Told]] = {
    "outer": OuterOptions,
    "inputs": NoOptions,
    "importance": ImportanceOptions,
    "moments": NoOptions,
    "walk": NoOptions,
    "layer": LayerOptions,
    "fused-moments": LayerOptions,
    "norm-moments": NormOptions,
}
"""The options of each request about sums (``merging.neurons.statistics.Statistics``)."""


class SumsJob(Told):
    """Answer one request with sums over the images."""

    session: Digest
    kind: Literal[
        "outer", "inputs", "importance", "moments", "walk", "layer", "fused-moments", "norm-moments"
    ]
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_fit(self) -> SumsJob:
        SUMS_OPTIONS[self.kind].model_validate(self.options)
        return self
