"""The plan of a study: its jobs, what each job needs, and which rows of the table it gives.

A job is named by a hash of its configuration, and of the code of the plug-ins that it uses. What does not
change a job's outcome (labels, other methods, later stages) is not in that configuration, so the same trained
hospitals under ten methods are one job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedmerge.data import CohortSpec
from fedmerge.errors import FedMergeError
from fedmerge.experiment.bench.config import BenchConfig, Variant
from fedmerge.experiment.config import Experiment
from fedmerge.experiment.entries import MethodConfig
from fedmerge.experiment.federations import Federation, federations
from fedmerge.experiment.kinds import MAJORITY, REFERENCE
from fedmerge.experiment.needs import needs_data, needs_of
from fedmerge.experiment.plugged import code_of
from fedmerge.experiment.target_supervised import BEST_SOURCE, ORACLE

Kind = Literal["rounds", "fine-tune", "pooled", "deploy"]
Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job: its configuration, the jobs whose results it reads, and a label for people."""

    hash: str
    config: Config
    needs: tuple[str, ...]
    label: str

    @property
    def kind(self) -> Kind:
        """The stage of the experiment that the job does."""
        kind: Kind = self.config["kind"]
        return kind


@dataclass(frozen=True)
class Entry:
    """The rows of one job in the table: ``columns`` are the values they have in common."""

    job: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """All jobs by hash, each after those it needs, and the entries of the table in order."""

    jobs: dict[str, Job]
    entries: list[Entry]

    def needing(self, missing: Sequence[str]) -> dict[str, None]:
        """Return these jobs and all that they need, directly or not, in the plan's order."""
        wanted, open_ = set(), list(missing)
        while open_:
            job = open_.pop()
            if job not in wanted:
                wanted.add(job)
                open_ += self.jobs[job].needs
        return {job: None for job in self.jobs if job in wanted}


def make_plan(config: BenchConfig, variants: Sequence[Variant]) -> Plan:
    """Plan the jobs of every variant, seed, federation, target and method; equal jobs are one."""
    jobs: dict[str, Job] = {}
    entries: list[Entry] = []
    for variant in variants:
        if not _writable(variant.cohort):
            raise FedMergeError(
                f"cohort '{variant.cohort.name}' holds arrays in memory, which a job cannot name: save them "
                "as .npz and give the source as npz:PATH."
            )
        for seed in variant.experiment.seeds:
            for job, columns in jobs_of(config, variant, seed):
                jobs.setdefault(job.hash, job)
                if columns is not None:
                    entries.append(Entry(job.hash, columns))
    return Plan(jobs, entries)


def jobs_of(config: BenchConfig, variant: Variant, seed: int) -> Iterator[tuple[Job, dict[str, Any] | None]]:
    """Yield the jobs of one variant and seed, each with the columns of its rows (None: it gives no rows)."""
    dumped = variant.cohort.model_dump(mode="json", exclude_none=True)
    for federation in federations(variant.cohort, variant.experiment):
        yield from _of(config, variant, dumped, seed, federation)


def _of(
    config: BenchConfig, variant: Variant, cohort: Config, seed: int, federation: Federation
) -> Iterator[tuple[Job, dict[str, Any] | None]]:
    """Yield the jobs of one federation of one seed, each after those it needs."""
    experiment, plugins = variant.experiment, variant.experiment.plugins
    name = ", ".join([*variant.levels.values(), f"seed {seed}"])
    if federation.name.startswith("without-"):
        name += f", {federation.name.replace('-', ' ', 1)}"
    together = _stage(experiment, cohort, seed, "rounds")
    base = {"members": list(federation.members)}
    begun: tuple[str, ...] = ()
    if experiment.training.rounds:
        rounds = _job(base | {"kind": "rounds", "experiment": together}, (), f"{name}: rounds", plugins)
        yield rounds, None
        begun = (rounds.hash,)
    tuned = _stage(experiment, cohort, seed, "fine-tune")
    own = _job(base | {"kind": "fine-tune", "experiment": tuned}, begun, f"{name}: fine-tuning", plugins)
    yield own, None
    for target in federation.targets:
        where = base | {"target": target}
        columns = {"cohort": cohort["name"], "model": experiment.model.name, **variant.levels}
        columns |= {"seed": seed, "site": target}
        if "pooled" in config.references or any(e.start == "pooled" for e in experiment.testtime):
            members = list(experiment.sources(target, federation.members))
            alike = _stage(experiment, cohort, seed, "pooled")
            shared = {"kind": "pooled", "members": members, "target": target, "experiment": alike}
            pooled = _job(shared, (), f"{name}: pooled training for {target}", plugins)
            yield pooled, None
        yield _majority(experiment, cohort, seed, where), columns | {"method": MAJORITY, "kind": REFERENCE}
        for kind, entry in _methods(config, experiment):
            stage = _deployed(experiment, cohort, seed, kind, entry)
            wanted = {"kind": "deploy", "experiment": stage, "as": "alone" if kind == ORACLE else kind}
            wanted |= {"method": {"method": entry.method, **entry.choices}}
            source = pooled if _from_pooled(kind, entry) else own
            start = begun if kind == "fusion" and needs_of(entry).shared_start else ()
            label = f"{name}: {entry.label} at {target}"
            job = _job(where | wanted, (source.hash, *start), label, plugins)
            yield job, columns | {"method": entry.label, "kind": kind}


def _majority(experiment: Experiment, cohort: Config, seed: int, where: Config) -> Job:
    """Return the job of the majority-class reference: it needs no job and is one for all ways to train."""
    stage = _stage(experiment, cohort, seed, "pooled")
    stage |= {"model": {"name": "small-cnn"}, "training": {"rounds": 1}, "normalisation": "none"}
    stage |= {"batch_norm": "mixture", "evaluation": _arriving(experiment)}
    config = where | {"kind": "deploy", "experiment": stage, "as": REFERENCE, "method": {"method": MAJORITY}}
    return _job(config, (), f"seed {seed}: {MAJORITY} at {where['target']}", experiment.plugins)


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


def _deployed(experiment: Experiment, cohort: Config, seed: int, kind: str, entry: MethodConfig) -> Config:
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
        own = local if stage == "rounds" else own.model_dump(mode="json")
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


def _job(config: Config, needs: tuple[str, ...], label: str, plugins: Sequence[str]) -> Job:
    if code := code_of(config, plugins):
        config = config | {"plugins": code}
    text = json.dumps(config, sort_keys=True)
    return Job(hashlib.sha256(text.encode()).hexdigest()[:16], config, needs, label)


def _writable(cohort: CohortSpec) -> bool:
    return all(isinstance(cohort.source_of(site), str) for site in cohort.sites)
