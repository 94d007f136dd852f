"""The plan of a study: its tasks, what each needs, and which rows of the table it gives.

A task is named by what decides its outcome: its configuration, the tasks that it needs, the images that it
reads, the version of its stage, and the code of the plug-ins that it uses. Labels, other methods and later
stages are in none of these, so the same trained hospitals under ten methods are one task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedmerge.data import CohortSpec
from fedmerge.data.cohort.content import cohort_content, public_content
from fedmerge.engine.graph import Graph
from fedmerge.engine.task import Task, task_of
from fedmerge.errors import FedMergeError
from fedmerge.experiment.cell import Step, steps
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.configuration.needs import needs_data, needs_of
from fedmerge.experiment.configuration.plugged import code_of
from fedmerge.experiment.kinds import ALONE, FINE_TUNE, FUSION, POOLED, REFERENCE, ROUNDS, VERSIONS
from fedmerge.experiment.target_supervised import ORACLE
from fedmerge.models.start_file import start_digest
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.bench.variants import Variant

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

    cases: the variants and seeds that a task serves. images: the content of the cohort's images and of the
    public ones that it reads, as a task finds them again.
    """

    entries: list[Entry]
    cases: dict[str, list[Case]]
    images: dict[str, tuple[str, str]]


def make_plan(config: BenchConfig, variants: Sequence[Variant]) -> StudyPlan:
    """Plan the tasks of every variant, seed, federation, target and method; equal tasks are one."""
    tasks: dict[str, Task] = {}
    entries: list[Entry] = []
    cases: dict[str, list[Case]] = {}
    images: dict[str, tuple[str, str]] = {}
    for variant in variants:
        if not _writable(variant.cohort):
            raise FedMergeError(
                f"cohort '{variant.cohort.name}' holds arrays in memory, which a task cannot name: save them "
                "as .npz and give the source as npz:PATH."
            )
        content = cohort_content(variant.cohort)
        public = public_content(variant.experiment.fusion_data, variant.cohort.folder)
        for seed in variant.experiment.seeds:
            for task, columns in tasks_of(config, variant, seed):
                tasks.setdefault(task.name, task)
                images[task.name] = content, public if "fusion_data" in task.config["experiment"] else ""
                cases.setdefault(task.name, []).append((variant, seed))
                if columns is not None:
                    entries.append(Entry(task.name, columns))
    return StudyPlan(tasks, entries, cases, images)


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
    """Yield the tasks of one cell, each after those it needs."""
    experiment = variant.experiment
    name = ", ".join([*variant.levels.values(), f"seed {seed}"])
    if federation.name.startswith("without-"):
        name += f", {federation.name.replace('-', ' ', 1)}"
    common = {"cohort": cohort["name"], "model": experiment.model.name, **variant.levels, "seed": seed}
    content, names = cohort_content(variant.cohort), dict[str, str]()
    content += start_digest(experiment.model.pretrained)
    for step in steps(experiment, federation, config.references):
        what, reads = _config(experiment, cohort, seed, federation, step), content
        if "fusion_data" in what["experiment"] and experiment.fusion_data is not None:
            reads += public_content(experiment.fusion_data, variant.cohort.folder)
        label = f"{f'seed {seed}' if step.rows == REFERENCE else name}: {step.label}"
        needs = tuple(names[need] for need in step.needs)
        task = _task(what, needs, label, reads, experiment.plugins)
        names[step.name] = task.name
        columns = None
        if step.entry is not None:
            columns = common | {"site": step.target, "method": step.entry.label, "kind": step.rows}
        yield task, columns


def _config(experiment: Experiment, cohort: Config, seed: int, federation: Federation, step: Step) -> Config:
    """Return the configuration of a step's task: all that decides what it makes, and nothing else."""
    what = {"kind": step.kind, "members": list(federation.members)}
    if step.kind == POOLED:
        what["members"] = list(experiment.sources(step.target, federation.members))
    if step.target:
        what["target"] = step.target
    if step.entry is None:
        return what | {"experiment": _stage(experiment, cohort, seed, step.kind)}
    stage = _stage(experiment, cohort, seed, POOLED if step.from_pooled else FINE_TUNE)
    if step.rows == REFERENCE:  # it needs no other task and is one for all ways to train
        stage = _stage(experiment, cohort, seed, POOLED)
        stage |= {"model": {"name": "small-cnn"}, "training": {"rounds": 1}, "normalisation": "none"}
        stage |= {"batch_norm": "mixture"}
    stage["evaluation"] = experiment.evaluation.model_dump(mode="json", exclude={"mixed"})
    if step.rows == FUSION and experiment.fusion_data is not None and needs_data(needs_of(step.entry)):
        stage["fusion_data"] = experiment.fusion_data.model_dump(mode="json")
    method = {"method": step.entry.method, **step.entry.choices}
    rows = ALONE if step.rows == ORACLE else step.rows
    return what | {"experiment": stage, "as": rows, "method": method}


def _stage(experiment: Experiment, cohort: Config, seed: int, stage: str) -> Config:
    """Return the experiment with all that does not decide this stage set to fixed values.

    Pooled training always begins from the shared initialisation.
    """
    training = experiment.training
    local = training.local.model_dump(mode="json")
    own: Any = training.fine_tune
    if own != "none":
        own = local if stage == ROUNDS else training.model_dump(mode="json")["fine_tune"]
    phases: Config = {"rounds": training.rounds, "fine_tune": own}
    if stage == POOLED:
        local.pop("proximal", None)  # it holds hospitals together
    if training.start != "shared" and stage != POOLED:
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
    } | ({"federation": federation} if federation and stage != POOLED else {})


def _task(config: Config, needs: tuple[str, ...], label: str, content: str, plugins: Sequence[str]) -> Task:
    if code := code_of(config, plugins):
        config = config | {"plugins": code}
    return task_of(config, needs, label, content=content, version=VERSIONS[config["kind"]])


def _writable(cohort: CohortSpec) -> bool:
    return all(isinstance(cohort.source_of(site), str) for site in cohort.sites)
