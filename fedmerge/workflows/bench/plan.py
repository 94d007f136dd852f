"""The plan of a study: its tasks, what each needs, and which rows of the table it gives.

A task is named by what decides its outcome: its configuration, the tasks that it needs, the images that it
reads, the version of its stage, and the code of the plug-ins that it uses. Labels, other methods and later
stages are in none of these, so the same trained hospitals under ten methods are one task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fedmerge.data import CohortSpec
from fedmerge.data.content import cohort_content, content_of
from fedmerge.data.fusion import FusionData
from fedmerge.engine.graph import Graph
from fedmerge.engine.task import Task, task_of
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.configuration.needs import needs_data, needs_of
from fedmerge.experiment.configuration.plugged import code_of
from fedmerge.experiment.kinds import MAJORITY, REFERENCE, VERSIONS
from fedmerge.experiment.target_supervised import BEST_SOURCE, ORACLE
from fedmerge.workflows.bench.config import BenchConfig, Variant

Config = dict[str, Any]
Case = tuple[Variant, int]
"""A variant and a seed."""


@dataclass(frozen=True)
class Entry:
    """The rows of one task in the table: ``columns`` are the values they have in common."""

    task: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class StudyPlan(Graph):
    """The tasks of a study, and the entries of its table in order.

    cases: the variants and seeds that a task serves.
    """

    entries: list[Entry]
    cases: dict[str, list[Case]]


def make_plan(config: BenchConfig, variants: Sequence[Variant]) -> StudyPlan:
    """Plan the tasks of every variant, seed, federation, target and method; equal tasks are one."""
    tasks: dict[str, Task] = {}
    entries: list[Entry] = []
    cases: dict[str, list[Case]] = {}
    for variant in variants:
        if not _writable(variant.cohort):
            raise FedMergeError(
                f"cohort '{variant.cohort.name}' holds arrays in memory, which a task cannot name: save them "
                "as .npz and give the source as npz:PATH."
            )
        for seed in variant.experiment.seeds:
            for task, columns in tasks_of(config, variant, seed):
                tasks.setdefault(task.name, task)
                cases.setdefault(task.name, []).append((variant, seed))
                if columns is not None:
                    entries.append(Entry(task.name, columns))
    return StudyPlan(tasks, entries, cases)


def tasks_of(
    config: BenchConfig, variant: Variant, seed: int
) -> Iterator[tuple[Task, dict[str, Any] | None]]:
    """Yield the tasks of one variant and seed, each with the columns of its rows (None: it gives no rows)."""
    dumped = variant.cohort.model_dump(mode="json", exclude_none=True)
    for federation in federations(variant.cohort, variant.experiment):
        yield from _of(config, variant, dumped, seed, federation)


def _of(
    config: BenchConfig, variant: Variant, cohort: Config, seed: int, federation: Federation
) -> Iterator[tuple[Task, dict[str, Any] | None]]:
    """Yield the tasks of one federation of one seed, each after those it needs."""
    experiment, plugins = variant.experiment, variant.experiment.plugins
    name = ", ".join([*variant.levels.values(), f"seed {seed}"])
    if federation.name.startswith("without-"):
        name += f", {federation.name.replace('-', ' ', 1)}"
    content = cohort_content(variant.cohort)
    task = partial(_task, content=content, plugins=plugins)
    together = _stage(experiment, cohort, seed, "rounds")
    base = {"members": list(federation.members)}
    begun: tuple[str, ...] = ()
    if experiment.training.rounds:
        rounds = task(base | {"kind": "rounds", "experiment": together}, (), f"{name}: rounds")
        yield rounds, None
        begun = (rounds.name,)
    tuned = _stage(experiment, cohort, seed, "fine-tune")
    own = task(base | {"kind": "fine-tune", "experiment": tuned}, begun, f"{name}: fine-tuning")
    yield own, None
    for target in federation.targets:
        where = base | {"target": target}
        columns = {"cohort": cohort["name"], "model": experiment.model.name, **variant.levels}
        columns |= {"seed": seed, "site": target}
        if "pooled" in config.references or any(e.start == "pooled" for e in experiment.testtime):
            members = list(experiment.sources(target, federation.members))
            alike = _stage(experiment, cohort, seed, "pooled")
            shared = {"kind": "pooled", "members": members, "target": target, "experiment": alike}
            pooled = task(shared, (), f"{name}: pooled training for {target}")
            yield pooled, None
        yield (
            _majority(experiment, cohort, seed, where, content),
            columns | {"method": MAJORITY, "kind": REFERENCE},
        )
        for kind, entry in _methods(config, experiment):
            stage = _evaluated(experiment, cohort, seed, kind, entry)
            wanted = {"kind": "evaluate", "experiment": stage, "as": "alone" if kind == ORACLE else kind}
            wanted |= {"method": {"method": entry.method, **entry.choices}}
            source = pooled if _from_pooled(kind, entry) else own
            started = needs_of(entry).shared_start if kind == "fusion" else entry.needs_federated
            start = begun if started else ()
            reads = content
            if "fusion_data" in stage and experiment.fusion_data is not None:
                reads += _public(experiment.fusion_data, variant.cohort)
            label = f"{name}: {entry.label} at {target}"
            yield (
                _task(where | wanted, (source.name, *start), label, reads, plugins),
                columns | {"method": entry.label, "kind": kind},
            )


def _majority(experiment: Experiment, cohort: Config, seed: int, where: Config, content: str) -> Task:
    """Return the task of the majority-class reference: it needs no other and is one for all ways to train."""
    stage = _stage(experiment, cohort, seed, "pooled")
    stage |= {"model": {"name": "small-cnn"}, "training": {"rounds": 1}, "normalisation": "none"}
    stage |= {"batch_norm": "mixture", "evaluation": _arriving(experiment)}
    config = where | {
        "kind": "evaluate",
        "experiment": stage,
        "as": REFERENCE,
        "method": {"method": MAJORITY},
    }
    return _task(config, (), f"seed {seed}: {MAJORITY} at {where['target']}", content, experiment.plugins)


def _methods(config: BenchConfig, experiment: Experiment) -> Iterator[tuple[str, MethodConfig]]:
    for reference in config.references:
        if reference == ORACLE:  # it measures nothing itself: it takes the rows of the hospitals alone
            yield reference, MethodConfig(method="alone", label=BEST_SOURCE)
        else:
            yield reference, MethodConfig(method=reference, label=reference)
    for entry in experiment.fusion:
        yield "fusion", entry
    for entry in experiment.testtime:
        yield "test-time", entry


def _from_pooled(kind: str, entry: MethodConfig) -> bool:
    """Whether a method needs the network of pooled training instead of the hospitals' own models."""
    return kind == "pooled" or entry.start == "pooled"


def _evaluated(experiment: Experiment, cohort: Config, seed: int, kind: str, entry: MethodConfig) -> Config:
    """Return the part of an experiment that decides a method's result at a hospital."""
    stage = _stage(experiment, cohort, seed, "pooled" if _from_pooled(kind, entry) else "fine-tune")
    stage["evaluation"] = _arriving(experiment)
    if kind == "fusion" and experiment.fusion_data is not None and needs_data(needs_of(entry)):
        stage["fusion_data"] = experiment.fusion_data.model_dump(mode="json")
    return stage


def _arriving(experiment: Experiment) -> Config:
    arriving: Config = experiment.evaluation.model_dump(mode="json", exclude={"mixed"})
    return arriving


def _stage(
    experiment: Experiment, cohort: Config, seed: int, stage: Literal["rounds", "fine-tune", "pooled"]
) -> Config:
    """Return the experiment with all that does not decide this stage set to fixed values.

    Pooled training always begins from the shared initialisation.
    """
    training = experiment.training
    local = training.local.model_dump(mode="json")
    own: Any = training.fine_tune
    if own != "none":
        own = local if stage == "rounds" else training.model_dump(mode="json")["fine_tune"]
    phases: Config = {"rounds": training.rounds, "fine_tune": own}
    if stage == "pooled":
        local.pop("proximal", None)  # it holds hospitals together
    if training.start != "shared" and stage != "pooled":
        phases["start"] = training.start
    federation = experiment.federation.written()
    return {
        "name": "job",
        "cohort": cohort,
        "unseen": "none" if experiment.unseen == "none" else "cohort",
        "model": experiment.model.model_dump(mode="json"),
        "normalisation": experiment.normalisation,
        "seeds": [seed],
        "training": local | phases,
        "selection": experiment.selection,
        "fusion": [],
        "testtime": [],
        "evaluation": {"streams": ["iid"]},
        "batch_norm": experiment.batch_norm,
    } | ({"federation": federation} if federation and stage != "pooled" else {})


def _task(config: Config, needs: tuple[str, ...], label: str, content: str, plugins: Sequence[str]) -> Task:
    if code := code_of(config, plugins):
        config = config | {"plugins": code}
    return task_of(config, needs, label, content=content, version=VERSIONS[config["kind"]])


def _public(data: FusionData, cohort: CohortSpec) -> str:
    """Return the content of the server's public images for fusion; empty where the hospitals' are taken."""
    return "" if data.source is None else content_of(data.source, cohort.folder)


def _writable(cohort: CohortSpec) -> bool:
    return all(isinstance(cohort.source_of(site), str) for site in cohort.sites)
