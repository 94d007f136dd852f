"""The configuration of a study: a base experiment, the axes that vary it, and what is compared."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedmerge.analysis import METRICS
from fedmerge.data import CohortSpec
from fedmerge.errors import Faults, FedMergeError, nearest, unknown
from fedmerge.experiment.configuration.changes import apply_change, check_once, set_fields
from fedmerge.experiment.configuration.config import SELDOM, Experiment
from fedmerge.experiment.configuration.entries import Strict, TrackerConfig
from fedmerge.experiment.configuration.plugged import plug_in
from fedmerge.experiment.configuration.reading import find_config, read_experiment
from fedmerge.experiment.folder import results
from fedmerge.schema.validation import LONGEST_NAME, Distinct, is_there, load_yaml, validate

Reference = Literal["alone", "pooled", "oracle"]
OWN_COLUMNS = ("cohort", "model")
"""Columns of the results that an axis of the same name may fill with its levels."""
OTHER_COLUMNS = (
    "study", "job", "status", "reason", "training_seconds", "kind", "batch", "source", "encoder", "head",
    "bin", "low", "high", "n", "confidence", "stream",
)  # fmt: skip
"""Further columns: of a study's rows, of coefficients.parquet, of reliability.parquet."""


def _levels(axes: Any) -> Any:
    """Write short axes out: ``training.lr: [0.1, 0.01]`` means one level for each value, named after it."""
    if not isinstance(axes, dict):
        return axes
    full, faults = {}, []
    for axis, levels in axes.items():
        if isinstance(levels, list):
            labels = [_label(value) for value in levels]
            twice = dict.fromkeys(label for label in labels if labels.count(label) > 1)
            faults += [f"axis '{axis}' lists the level '{label}' twice: list it once" for label in twice]
            levels = {label: {axis: value} for label, value in zip(labels, levels, strict=True)}
        elif isinstance(levels, dict):
            levels = {str(label): {} if changes is None else changes for label, changes in levels.items()}
        full[str(axis)] = levels
    if faults:
        raise ValueError(*faults)
    return full


def _label(value: Any) -> str:
    """Return the name of a value's level; true and false are written as YAML writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class BenchConfig(Strict):
    """A study: each combination of the axes' levels is an experiment, and each seed of it a set of jobs.

    base: an experiment, as a mapping or by name or file. set: dotted fields changed in it. axes: by name, the
    levels by label, each the dotted fields it changes (a mapping changes only
    the fields it names). without: combinations to leave out. references: what
    stands beside the methods, and the majority class always does; ``oracle`` is the best source by the
    target's own labels (``target_supervised.py``); nothing is selected by it or compared with it. compare: an
    axis or ``method``. metric: the score that ranks; ``auto``: accuracy, or balanced accuracy
    where the classes of a hospital are uneven (``analysis.uneven``).
    reference: the level that the others are compared with. sweep: axes whose level is chosen by validation
    at the hospitals that trained. keep_models: whether trained models stay on disk after the last job that
    needs them. plugins: modules or files, FILE.py, for all experiments of the study. trackers: programs
    that are told what goes on in it; they change no number.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
    title: str = ""
    question: str = ""
    base: str | dict[str, Any]
    set: dict[str, Any] = Field(default_factory=dict)
    axes: Annotated[dict[str, dict[str, dict[str, Any]]], BeforeValidator(_levels)] = Field(
        default_factory=dict
    )
    without: Annotated[tuple[dict[str, str], ...], Distinct] = ()
    references: Annotated[tuple[Reference, ...], Distinct] = ("alone", "pooled")
    compare: str = "method"
    reference: str | None = None
    metric: str = "auto"
    sweep: Annotated[tuple[str, ...], Distinct] = ()
    keep_models: bool = True
    plugins: Annotated[tuple[str, ...], Distinct] = ()
    trackers: Annotated[tuple[TrackerConfig, ...], Distinct] = ()

    @field_validator("metric")
    @classmethod
    def _ranks(cls, name: str) -> str:
        able = ["auto", *(metric.name for metric in METRICS if metric.ranks)]
        if name in METRICS and name not in able:
            raise ValueError(
                f"metric '{name}' cannot rank: only one from 0 to 1 can. Allowed: {', '.join(able)}"
            )
        if name not in able:
            raise ValueError(str(unknown("metric", name, able)))
        return name

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if value or key not in SELDOM}

    @model_validator(mode="after")
    def _axes_fit(self) -> BenchConfig:
        if faults := list(self._faults()):
            raise ValueError(*faults)
        return self

    def _faults(self) -> Iterator[str]:
        columns = {*results.columns(), *OTHER_COLUMNS}.difference(OWN_COLUMNS)
        for axis, levels in self.axes.items():
            if not levels:
                yield f"axis '{axis}' has no levels: give at least one, or take it out"
            if axis in columns:
                yield f"axis '{axis}' has the name of a column of the study's tables: choose another name"
        for name in dict.fromkeys(
            (*self.sweep, *(axis for pair in self.without for axis in pair), self.compare)
        ):
            if name not in self.axes and name != "method":
                yield f"there is no axis '{name}'.{nearest(name, self.axes)} {self._known()}"
        for axis, label in (item for pair in self.without for item in pair.items()):
            if label not in (known := self.axes.get(axis, {label: {}})):
                yield (
                    f"without: '{label}' is no level of axis '{axis}'.{nearest(label, known)} "
                    f"Levels: {', '.join(known)}"
                )
        if self.compare in self.sweep:
            yield f"axis '{self.compare}' is compared, so it cannot be chosen by validation as well"
        levels = self.axes.get(self.compare, {})
        if self.reference is not None and levels and self.reference not in levels:
            hint = nearest(self.reference, levels)
            yield (
                f"reference '{self.reference}' is no level of axis '{self.compare}'.{hint} "
                f"Levels: {', '.join(levels)}"
            )

    def _known(self) -> str:
        return f"Axes: {', '.join(self.axes) or 'none'}"


@dataclass(frozen=True)
class Variant:
    """One combination of the axes' levels, with its experiment and cohort."""

    levels: dict[str, str]
    experiment: Experiment
    cohort: CohortSpec


def read_bench(
    source: str | Path | dict[str, Any] | BenchConfig,
    changes: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> tuple[BenchConfig, list[Variant]]:
    """Read a study and its experiments from a YAML file, the name of a shipped one, or a mapping.

    changes: ``a.b=value`` overrides of the study's fields (``set.seeds=[0]``). plugins: besides those that
    the study names; all are loaded first. Raises FedMergeError with file, field, what was given, what is
    allowed, and the nearest valid name; for an experiment, also with the levels that made it.
    """
    near: Path | None = None
    faults = Faults()
    data: dict[str, Any]
    if isinstance(source, BenchConfig):
        data, where = source.model_dump(), "study"
    elif isinstance(source, dict):
        data, where = dict(source), "study"
    else:
        path = find_config(source)
        data, where, near = load_yaml(path, faults), str(path), path.parent
        if "base" not in data:
            raise FedMergeError(
                f"{path} is no study: it has no 'base' (an experiment). To run one experiment: fedmerge run."
            )
    for change in changes:
        with faults.kept():
            apply_change(data, change)
    plug_in(data, near, plugins, faults)
    config: BenchConfig | None = None
    with faults.kept():
        config = validate(BenchConfig, data, where)
    if config is None:
        faults.say()
        raise AssertionError  # a study that is None has a fault
    config = _with_base(config, near, faults)
    variants = _variants(config, where, near, faults)
    faults.say()
    named = dict.fromkeys(name for variant in variants for name in variant.experiment.plugins)
    return config.model_copy(update={"plugins": tuple(named)}), variants


def _with_base(config: BenchConfig, near: Path | None, faults: Faults) -> BenchConfig:
    """Return the study with its base read into a mapping."""
    if isinstance(config.base, dict):
        return config
    path = Path(config.base)
    beside = near / path if near and is_there(near / path) else path
    return config.model_copy(update={"base": load_yaml(find_config(beside), faults)})


def _variants(config: BenchConfig, where: str, near: Path | None, faults: Faults) -> list[Variant]:
    """Return the variants of the study; a fault that several share goes to ``faults`` once."""
    for axis, labelled in ({"set": {"": config.set}} | config.axes).items():
        for label, changes in labelled.items():
            with faults.kept():
                check_once(changes, f"{where}: {axis if axis == 'set' else f'{axis} {label}'}")
    variants: list[Variant] = []
    wrong: dict[str, list[str]] = {}
    combinations = _combinations(config)
    for levels in combinations:
        try:
            variants.append(_variant(config, levels, near))
        except FedMergeError as error:
            for sentence in map(str, error.args):
                wrong.setdefault(sentence.removeprefix("experiment: "), []).append(in_words(levels))
    faults.found += said_once(wrong, where)
    if not combinations:
        faults.found.append(
            f"{where}: 'without' leaves no combination of the axes: take something out of it."
        )
    if variants:
        with faults.kept():
            _check_reference(config, variants[0], where)
        with faults.kept():
            _check_metric(config, variants, where)
    return variants


def in_words(levels: Mapping[str, str]) -> str:
    """Return a combination as text: ``data digits, parents 2``."""
    return ", ".join(f"{axis} {label}" for axis, label in levels.items())


def said_once(wrong: Mapping[str, Sequence[str]], where: str) -> Iterator[str]:
    """Yield each sentence once, with the first of its places and the number of the others."""
    for sentence, places in wrong.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"{where}{f', with {places[0]}{more}' if places[0] else ''}: {sentence}"


def _combinations(config: BenchConfig) -> list[dict[str, str]]:
    every = (
        dict(zip(config.axes, labels, strict=True)) for labels in itertools.product(*config.axes.values())
    )
    return [
        levels
        for levels in every
        if not any(all(levels[axis] == label for axis, label in pair.items()) for pair in config.without)
    ]


def _variant(config: BenchConfig, levels: dict[str, str], near: Path | None) -> Variant:
    assert isinstance(config.base, dict)
    data = copy.deepcopy(config.base)
    data.setdefault("name", config.name)
    for changes in (config.set, *(config.axes[axis][label] for axis, label in levels.items())):
        set_fields(data, copy.deepcopy(changes))
    if config.plugins:
        data["plugins"] = list(dict.fromkeys([*config.plugins, *data.get("plugins", ())]))
    experiment, cohort = read_experiment(data, near=near)
    if experiment.trackers:
        raise FedMergeError("trackers of a study stand beside 'base', not in an experiment: move them there.")
    return Variant(levels, experiment, cohort)


def _check_metric(config: BenchConfig, variants: Sequence[Variant], where: str) -> None:
    """Raise FedMergeError for a metric that some experiment has no column of, by its cohort's task."""
    for variant in variants if config.metric in METRICS else ():
        task = variant.cohort.task
        if task not in METRICS[config.metric].tasks:
            able = [metric.name for metric in METRICS if metric.ranks and task in metric.tasks]
            raise FedMergeError(
                f"{where}: metric '{config.metric}' is not for task {task}, which cohort "
                f"'{variant.cohort.name}' has. Allowed: auto, {', '.join(able)}."
            )


def _check_reference(config: BenchConfig, variant: Variant, where: str) -> None:
    if config.compare != "method" or config.reference is None or config.reference.startswith("alone:"):
        return
    methods = [entry.label for entry in (*variant.experiment.fusion, *variant.experiment.testtime)]
    methods += [name for name in config.references if name == "pooled"]
    if config.reference not in methods:
        hint = nearest(config.reference, methods)
        raise FedMergeError(
            f"{where}: reference '{config.reference}' is none of the methods.{hint} "
            f"Methods: {', '.join(methods)}."
        )
