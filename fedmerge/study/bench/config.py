"""The configuration of a study: an experiment, what is varied in it, and what is compared with what."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedmerge.data import CohortSpec
from fedmerge.errors import FedMergeError, nearest
from fedmerge.study.config import Experiment, apply_change, find_config, read_experiment, set_fields
from fedmerge.study.entries import Strict
from fedmerge.study.results import COLUMNS
from fedmerge.validation import load_yaml, validate

Reference = Literal["alone", "pooled", "oracle"]
OWN_COLUMNS = ("cohort", "model")
"""Columns of the results that an axis of the same name may fill with its levels."""


def _levels(axes: Any) -> Any:
    """Write short axes out: ``training.lr: [0.1, 0.01]`` means one level a value, named after it."""
    if not isinstance(axes, dict):
        return axes
    full = {}
    for axis, levels in axes.items():
        if isinstance(levels, list):
            levels = {str(value): {axis: value} for value in levels}
        elif isinstance(levels, dict):
            levels = {str(label): {} if changes is None else changes for label, changes in levels.items()}
        full[str(axis)] = levels
    return full


class BenchConfig(Strict):
    """A study: every combination of the axes' levels, each an experiment, every seed of it a set of jobs.

    base: an experiment, as a mapping or by name or file. set: dotted fields changed in it. axes: by name, the
    levels by label, each the dotted fields it changes (a mapping changes only
    the fields it names). without: combinations to leave out. references: what
    stands beside the methods, and the majority class always does; ``oracle`` is the best source as the
    target's own labels tell (``oracle.py``), which nothing is selected by or compared with. compare: what is
    compared, an axis or ``method``. metric: the score that ranks; ``auto``: accuracy, or balanced accuracy
    where the classes of a hospital are uneven (``analysis.uneven``).
    reference: the level that paired differences are against. sweep: axes whose level is chosen by validation
    at the hospitals that trained. keep_models: whether trained models stay on disk once all that needs them
    is done.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    question: str = ""
    base: str | dict[str, Any]
    set: dict[str, Any] = Field(default_factory=dict)
    axes: Annotated[dict[str, dict[str, dict[str, Any]]], BeforeValidator(_levels)] = Field(
        default_factory=dict
    )
    without: tuple[dict[str, str], ...] = ()
    references: tuple[Reference, ...] = ("alone", "pooled")
    compare: str = "method"
    reference: str | None = None
    metric: Literal["auto", "accuracy", "balanced_accuracy", "auroc"] = "auto"
    sweep: tuple[str, ...] = ()
    keep_models: bool = True

    @model_validator(mode="after")
    def _axes_fit(self) -> BenchConfig:
        for axis, levels in self.axes.items():
            if not levels:
                raise ValueError(f"axis '{axis}' has no levels: give at least one, or take it out")
            if axis in {*COLUMNS, "study", "job", "status", "reason", "training_seconds"} - {*OWN_COLUMNS}:
                raise ValueError(
                    f"axis '{axis}' has the name of a column of the results: choose another name"
                )
        for name in (*self.sweep, *(axis for pair in self.without for axis in pair), self.compare):
            if name not in self.axes and name != "method":
                raise ValueError(f"there is no axis '{name}'.{nearest(name, self.axes)} {self._known()}")
        if self.compare in self.sweep:
            raise ValueError(
                f"axis '{self.compare}' is compared, so it cannot be chosen by validation as well"
            )
        levels = self.axes.get(self.compare, {})
        if self.reference is not None and levels and self.reference not in levels:
            hint = nearest(self.reference, levels)
            raise ValueError(
                f"reference '{self.reference}' is no level of axis '{self.compare}'.{hint} "
                f"Levels: {', '.join(levels)}"
            )
        return self

    def _known(self) -> str:
        return f"Axes: {', '.join(self.axes) or 'none'}"


@dataclass(frozen=True)
class Variant:
    """One combination of the axes' levels: the experiment it is, and its cohort."""

    levels: dict[str, str]
    experiment: Experiment
    cohort: CohortSpec


def read_bench(
    source: str | Path | dict[str, Any] | BenchConfig, changes: Sequence[str] = ()
) -> tuple[BenchConfig, list[Variant]]:
    """Read a study and its experiments from a YAML file, the name of a shipped one, or a mapping.

    changes: ``a.b=value`` overrides of the study's fields (``set.seeds=[0]``). Raises FedMergeError with
    file, field, what was given, what is allowed, and the nearest valid name; for an experiment, also with the
    levels that made it.
    """
    near: Path | None = None
    if isinstance(source, BenchConfig):
        data, where = source.model_dump(), "study"
    elif isinstance(source, dict):
        data, where = dict(source), "study"
    else:
        path = find_config(source)
        data, where, near = load_yaml(path), str(path), path.parent
        if "base" not in data:
            raise FedMergeError(
                f"{path} is no study: it has no 'base' (an experiment). To run one experiment: fedmerge run."
            )
    for change in changes:
        apply_change(data, change)
    config = validate(BenchConfig, data, where)
    base = _base(config, near)
    config = config.model_copy(update={"base": base})
    variants = [_variant(config, base, levels, where, near) for levels in _combinations(config)]
    if not variants:
        raise FedMergeError(
            f"{where}: 'without' leaves no combination of the axes: take something out of it."
        )
    _check_reference(config, variants[0], where)
    return config, variants


def _base(config: BenchConfig, near: Path | None) -> dict[str, Any]:
    if isinstance(config.base, dict):
        return dict(config.base)
    path = Path(config.base)
    beside = near / path if near and (near / path).is_file() else path
    return load_yaml(find_config(beside))


def _combinations(config: BenchConfig) -> list[dict[str, str]]:
    every = (
        dict(zip(config.axes, labels, strict=True)) for labels in itertools.product(*config.axes.values())
    )
    return [
        levels
        for levels in every
        if not any(all(levels[axis] == label for axis, label in pair.items()) for pair in config.without)
    ]


def _variant(
    config: BenchConfig, base: dict[str, Any], levels: dict[str, str], where: str, near: Path | None
) -> Variant:
    data = copy.deepcopy(base)
    data.setdefault("name", config.name)
    for changes in (config.set, *(config.axes[axis][label] for axis, label in levels.items())):
        set_fields(data, copy.deepcopy(changes))
    try:
        experiment, cohort = read_experiment(data, near=near)
    except FedMergeError as error:
        which = ", ".join(f"{axis} {label}" for axis, label in levels.items())
        text = str(error).removeprefix("experiment: ")
        raise FedMergeError(f"{where}{f', with {which}' if which else ''}: {text}") from None
    return Variant(levels, experiment, cohort)


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
