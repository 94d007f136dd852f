"""The configuration of an experiment: configs/*.yaml as typed, frozen values that say no early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedmerge.data import CohortSpec, FusionData, read_cohort
from fedmerge.data.scanner import SHIFTS
from fedmerge.data.streams import StreamSpec
from fedmerge.errors import FedMergeError, nearest, unknown
from fedmerge.federation.fault_plan import check_sites
from fedmerge.federation.options import FederationOptions
from fedmerge.merging import FUSION
from fedmerge.study.entries import MethodConfig, Strict, as_written
from fedmerge.study.kinds import MAJORITY
from fedmerge.study.needs import check_needs, check_tuning
from fedmerge.study.oracle import BEST_SOURCE
from fedmerge.testtime import TESTTIME
from fedmerge.training import TrainingOptions
from fedmerge.validation import load_yaml, validate

RESERVED = ("alone", "pooled", BEST_SOURCE, MAJORITY)
"""Labels of references, which no method may have."""


class ModelConfig(Strict):
    """A network by name (``fedmerge methods`` lists them), with its own options."""

    name: str
    pretrained: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


class TrainingConfig(TrainingOptions):
    """Local training in a round, the number of rounds, and the fine-tuning that follows.

    ``fine_tune`` inherits every field of the local training it does not set, except ``proximal``: FedProx
    holds hospitals together in the rounds, and a hospital's own model is its own. ``fine_tune: none``: no
    hospital hands out a model of its own; the federated one alone is deployed. start: all hospitals begin
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
        inherited = TrainingOptions.model_fields.keys() - {"proximal"}
        local = {key: value for key, value in given.items() if key in inherited}
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

    @property
    def local(self) -> TrainingOptions:
        """The options of one hospital's training in one round."""
        return TrainingOptions(**{key: getattr(self, key) for key in TrainingOptions.model_fields})


class Deployment(Strict):
    """What arrives at a hospital: which of its images, in what order, how many at a time, how they look.

    shifts: kinds of scanner shift that the same images are seen under as well, one at a time, at each of
    ``severities``; a stream in which the scanner drifts has its own. mixed: the unseen sites' images come
    together, as those of one place named ``mixed``, instead of site by site. images: at most so many of those
    that arrive at a place, drawn by the run's seed; None: all. Written only where it is set.
    """

    batch_size: int = Field(default=64, ge=1)
    split: Literal["all", "test"] = "all"
    streams: tuple[StreamSpec, ...] = Field(min_length=1)
    shifts: tuple[str, ...] = ()
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 2, 3, 4, 5)
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
        """Every (kind, severity) beside the images as they are."""
        return tuple((kind, severity) for kind in self.shifts for severity in self.severities)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Experiment(Strict):
    """One experiment: who, which network, how trained, how fused, how deployed, with which seeds.

    unseen: ``cohort``, the sites marked so; names; ``each`` in turn; or ``none``: every hospital trains, and
    each is deployed at on its own test split. fusion_data: the images of fusion methods that need some.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    cohort: str | CohortSpec
    unseen: Literal["cohort", "each", "none"] | tuple[str, ...] = "cohort"
    model: Annotated[ModelConfig, BeforeValidator(_named)]
    normalisation: Literal["default", "half", "imagenet", "none"] = "default"
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    training: TrainingConfig
    selection: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    fusion: tuple[Annotated[MethodConfig, as_written(FUSION)], ...]
    fusion_data: FusionData | None = None
    testtime: tuple[Annotated[MethodConfig, as_written(TESTTIME)], ...] = ()
    deployment: Deployment
    batch_norm: Literal["mixture", "average"] = "mixture"
    federation: FederationOptions = FederationOptions()
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)

    def sources(self, target: str, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that may serve ``target``: all but itself, unless it trains with them."""
        return tuple(name for name in names if name != target or self.unseen == "none")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice; list each once")
        return seeds

    @model_validator(mode="after")
    def _labels(self) -> Experiment:
        labels = [entry.label for entry in (*self.fusion, *self.testtime)]
        for label in labels:
            if label in RESERVED:
                raise ValueError(f"'{label}' is what a reference is called; give the method another 'label'")
            if labels.count(label) > 1:
                raise ValueError(f"two methods are labelled '{label}'; give one of them another 'label'")
        return self


def read_experiment(
    source: str | Path | dict[str, Any] | Experiment,
    changes: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    near: Path | None = None,
) -> tuple[Experiment, CohortSpec]:
    """Read an experiment and its cohort from a YAML file, a mapping, or an Experiment.

    changes: ``a.b=value`` overrides, the value read as YAML. seed: run this seed alone. device: override.
    near: the folder a mapping comes from, where its cohort may lie (a file's is its own).
    Raises FedMergeError with file, field, what was given, what is allowed, and the nearest valid name; and
    for a method without what it needs: images, a common start, the sources' own models, sources to tune on.
    """
    if isinstance(source, Experiment):
        data, where = source.model_dump(), "experiment"
        data |= {"cohort": source.cohort}
    elif isinstance(source, dict):
        data, where = dict(source), "experiment"
    else:
        path = find_config(source)
        data, where, near = load_yaml(path), str(path), path.parent
    for change in changes:
        apply_change(data, change)
    if seed is not None:
        data["seeds"] = [seed]
    if device is not None:
        data["device"] = device
    experiment = validate(Experiment, data, where)
    check_needs(experiment, where)
    named = experiment.cohort
    cohort = read_cohort(named, near) if isinstance(named, str) else named
    check_tuning(experiment, cohort, where)
    check_sites(experiment.federation.faults, [site.name for site in cohort.sites])
    return experiment, cohort


def find_config(source: str | Path) -> Path:
    """The configuration file: the path as given, or a shipped configuration by name."""
    path = Path(source)
    if path.exists():
        return path
    for folder in _shipped():
        candidate = folder / f"{path.name.removesuffix('.yaml')}.yaml"
        if str(path) in (candidate.stem, candidate.name, f"configs/{candidate.name}") and candidate.exists():
            return candidate
    names = sorted({file.stem for folder in _shipped() for file in folder.glob("*.yaml")})
    raise FedMergeError(
        f"there is no configuration '{source}'.{nearest(path.stem, names)} Give a YAML file, or one of the "
        f"shipped ones: {', '.join(names)}."
    )


def _shipped() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    folders = [Path("configs"), package.parent / "configs", package / "_shipped" / "configs"]
    return [folder for folder in folders if folder.is_dir()]


def apply_change(data: dict[str, Any], change: str) -> None:
    """Carry out one ``--set a.b.c=value``, the value read as YAML."""
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise FedMergeError(f"--set takes field=value (for example training.rounds=10), not '{change}'.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise FedMergeError(
            f"--set {change}: the value cannot be read as YAML; put text with signs in quotes."
        ) from None
    set_field(data, key, value)


def set_fields(data: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set dotted fields; a mapping changes the fields it names and leaves the others."""
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            set_fields(data, {f"{key}.{inner}": deeper for inner, deeper in value.items()})
        else:
            set_field(data, key, value)


def set_field(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted field ``a.b.c`` in nested mappings; mappings on the way are copied, never shared."""
    parts, place = key.split("."), data
    for part in parts[:-1]:
        child = place.get(part)
        if isinstance(child, str):  # `model: small-cnn` and --set model.options.width=8
            child = {"name": child}
        place[part] = dict(child) if isinstance(child, dict) else {}
        place = place[part]
    place[parts[-1]] = value
