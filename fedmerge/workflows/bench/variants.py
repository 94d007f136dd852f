"""The experiments of a study: each combination of its axes' levels, read and checked."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.analysis import METRICS
from fedmerge.data import CohortSpec
from fedmerge.errors import Faults, FedMergeError, nearest
from fedmerge.experiment.configuration.changes import apply_change, check_once, set_fields
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.plugged import plug_in
from fedmerge.experiment.configuration.reading import find_config, read_experiment
from fedmerge.schema.validation import is_there, load_yaml, validate
from fedmerge.workflows.bench.config import BenchConfig


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
