"""The configuration of an experiment: configs/*.yaml as typed, frozen values, checked on reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedmerge.data import CohortSpec, FusionData
from fedmerge.data.scanner import SHIFTS
from fedmerge.data.streams import StreamSpec
from fedmerge.errors import unknown
from fedmerge.experiment.configuration.entries import MethodConfig, Strict, TrackerConfig, as_written
from fedmerge.experiment.kinds import MAJORITY
from fedmerge.experiment.target_supervised import BEST_SOURCE
from fedmerge.federation.plan.options import FederationOptions
from fedmerge.merging import FUSION
from fedmerge.schema.validation import LONGEST_NAME, Distinct, Seed, off_as_written
from fedmerge.testtime import TESTTIME
from fedmerge.training import TrainingOptions

RESERVED = ("alone", "pooled", BEST_SOURCE, MAJORITY)
"""Labels of references, which no method may have."""
SELDOM = ("plugins", "trackers")
"""Fields that are written only where they are set."""
INHERITED = tuple(name for name in TrainingOptions.model_fields if name != "proximal")
"""Fields that ``fine_tune`` takes from the rounds where it does not set them."""


class ModelConfig(Strict):
    """A network by name (``fedmerge methods`` lists them), with its own options.

    pretrained: whether it begins from its own pretrained weights, or a file of weights that it begins from.
    """

    name: str
    pretrained: bool | str = False
    options: dict[str, Any] = Field(default_factory=dict)


class TrainingConfig(TrainingOptions):
    """Local training in a round, the number of rounds, and the fine-tuning that follows.

    ``fine_tune`` inherits every field of the local training it does not set, except ``proximal``: FedProx
    holds hospitals together in the rounds, but not in fine-tuning. ``fine_tune: none``: no hospital hands
    out a model of its own; the federated one alone is evaluated. start: all hospitals begin
    from one initialisation (``shared``), or, with rounds: 0, each from its own (``independent``; pretrained
    weights are the same for all, a new head is not).
    """

    rounds: int = Field(ge=0)
    start: Literal["shared", "independent"] = "shared"
    fine_tune: TrainingOptions | Literal["none"]

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        local = {key: value for key, value in given.items() if key in INHERITED}
        own = given.get("fine_tune") or {}
        return given | {"fine_tune": local | own if isinstance(own, dict) else own}

    @model_validator(mode="after")
    def _rounds_share_a_start(self) -> TrainingConfig:
        if self.start == "independent" and self.rounds:
            raise ValueError(
                f"start: independent needs rounds: 0 (given: {self.rounds}), because rounds begin from one "
                "shared model"
            )
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> TrainingConfig:
        if self.fine_tune == "none" and not self.rounds:
            raise ValueError("fine_tune: none leaves nothing to train with rounds: 0: set one of the two")
        return self

    @model_validator(mode="after")
    def _proximal_has_rounds(self) -> TrainingConfig:
        if self.proximal and not self.rounds:
            raise ValueError(
                f"proximal: {self.proximal:g} holds hospitals near the model of a round, but there are no "
                "rounds: set rounds to at least 1, or, to hold the fine-tuning, fine_tune.proximal"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write, in ``fine_tune``, also what is as usual there and would be inherited otherwise."""
        written: dict[str, Any] = super()._as_written(write)
        if self.fine_tune != "none":
            set_apart = [key for key in INHERITED if key in written and key not in written["fine_tune"]]
            own = {key: getattr(self.fine_tune, key) for key in set_apart}
            written["fine_tune"] = written["fine_tune"] | own
        return written

    @property
    def local(self) -> TrainingOptions:
        """The options of one hospital's training in one round."""
        return TrainingOptions(**{key: getattr(self, key) for key in TrainingOptions.model_fields})


class EvaluationConfig(Strict):
    """The images that arrive at a hospital: which of them, in what order, how many at a time, how they look.

    shifts: kinds of scanner shift under which the same images are seen as well, one at a time, at each of
    ``severities``; a stream in which the scanner drifts has its own. mixed: the unseen sites' images arrive
    together, as those of one place named ``mixed``, instead of site by site. images: at most this many arrive
    at a place, drawn by the run's seed; None: all. It is written only where it is set.
    """

    batch_size: int = Field(default=64, ge=1)
    split: Literal["all", "test"] = "all"
    streams: Annotated[tuple[StreamSpec, ...], Distinct] = Field(min_length=1)
    shifts: Annotated[tuple[str, ...], Distinct] = ()
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Distinct] = (1, 2, 3, 4, 5)
    mixed: bool = False
    images: int | None = Field(default=None, ge=1)

    @field_validator("shifts")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in SHIFTS:
                raise ValueError(str(unknown("scanner shift", kind, SHIFTS)))
        return kinds

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key != "images" or value is not None}

    @property
    def shifted(self) -> tuple[tuple[str, int], ...]:
        """Every scanner shift as (kind, severity); the images as they are come besides."""
        return tuple((kind, severity) for kind in self.shifts for severity in self.severities)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Experiment(Strict):
    """One experiment: cohort, network, training, fusion, test-time methods, evaluation and seeds.

    unseen: ``cohort``, the sites marked so; names; ``each`` in turn; or ``none``: every hospital trains, and
    each is a target with its own test split. fusion_data: the images of fusion methods that need some.
    diagnose: how much of the hospitals' models is looked at for the report's "Why".
    plugins: modules or files, FILE.py, that add methods, networks, sources or metrics. trackers: programs
    that are told what goes on in the run. selection: the validation score that choices rest on; where it is
    not set and the cohort has another task than multiclass, that task's own (docs/tasks.md).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
    title: str = ""
    cohort: str | CohortSpec
    unseen: Literal["cohort", "each", "none"] | Annotated[tuple[str, ...], Distinct] = "cohort"
    model: Annotated[ModelConfig, BeforeValidator(_named)]
    normalisation: Literal["default", "half", "imagenet", "none", "per-site"] = "default"
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(default=(0,), min_length=1)
    training: TrainingConfig
    selection: Literal["accuracy", "balanced_accuracy", "auroc", "kappa"] = "accuracy"
    fusion: tuple[Annotated[MethodConfig, as_written(FUSION)], ...]
    fusion_data: FusionData | None = None
    testtime: tuple[Annotated[MethodConfig, as_written(TESTTIME)], ...] = ()
    evaluation: EvaluationConfig
    batch_norm: Literal["mixture", "average"] = "mixture"
    diagnose: Literal["off", "quick", "full"] = "quick"
    federation: FederationOptions = FederationOptions()
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    plugins: Annotated[tuple[str, ...], Distinct] = ()
    trackers: Annotated[tuple[TrackerConfig, ...], Distinct] = ()

    _off = field_validator("diagnose", mode="before")(off_as_written)

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value or key not in SELDOM}

    def sources(self, target: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``names`` that may serve ``target``: all but itself, unless every site trains."""
        return tuple(name for name in names if name != target or self.unseen == "none")
