"""The configuration of a study: a base experiment, the axes that vary it, and what is compared."""

from __future__ import annotations

from collections.abc import Iterator
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
from fedmerge.errors import nearest, unknown
from fedmerge.experiment.configuration.config import SELDOM
from fedmerge.experiment.configuration.entries import Strict, TrackerConfig
from fedmerge.experiment.folder import results
from fedmerge.schema.validation import LONGEST_NAME, Distinct

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
