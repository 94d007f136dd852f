"""What a run would do, how long, and how much memory and disk: measured on a few steps, then counted.

Seconds: a training step is timed on images of the first hospital, a prediction on as many images as arrive at
once, and a test-time method on two batches, all with the experiment's network on its device; the steps,
images and batches of the run are then counted exactly. Starting Python, reading images, fusing, writing files
and drawing the report are not counted. Nothing is written.

Memory: what this process took at most, with all modules that a run imports, the experiment's images, and
those steps and predictions; and what a run holds besides: the models of one federation and its pooled images.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmerge.data import Cohort, Split, build_cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.federations import MIXED, Federation, federations
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.experiment.folder.machine import pick_device, reproducible
from fedmerge.experiment.stages.planning import plan_of
from fedmerge.experiment.stages.preflight import check_seeds
from fedmerge.experiment.stages.timing import train_some
from fedmerge.federation import FederationPlan
from fedmerge.models.predict import AT_ONCE, predict
from fedmerge.models.zoo import build
from fedmerge.testtime import TESTTIME
from fedmerge.training import TrainingOptions
from fedmerge.training.local import batch_sizes

STEPS = 12
"""Training steps that are timed, after one epoch of as many that is not."""
REPORT_BYTES = 2**20
"""The disk that a run's report and tables take: about a megabyte."""


@dataclass(frozen=True)
class Part:
    """A part of a run. what: in words. seconds: estimated; None: not known before it runs."""

    what: str
    seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """What a run would do and cost. memory, disk: bytes. measured: what was timed, in words."""

    name: str
    device: str
    seeds: tuple[int, ...]
    federations: tuple[Federation, ...]
    parts: tuple[Part, ...]
    memory: int
    disk: int
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The sum over the parts that are known, for all seeds."""
        return sum(part.seconds or 0.0 for part in self.parts)


def estimate(
    config: str | Path | dict[str, Any] | Experiment,
    *,
    changes: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    plugins: Sequence[str] = (),
    built: Cohort | None = None,
) -> Estimate:
    """Check an experiment as ``run`` does, and estimate it (see the module); the arguments are ``run``'s.

    built: its cohort as ``build_cohort`` makes it with the first seed, where it is there already.
    Raises FedMergeError for whatever ``run`` refuses before it starts.
    """
    experiment, spec = read_experiment(config, changes, seed, device, plugins=plugins)
    where = pick_device(experiment.device)
    cohort = build_cohort(spec, experiment.seeds[0]) if built is None else built
    check_seeds(experiment, spec, cohort)
    _import_what_a_run_imports()
    with reproducible(experiment.threads):
        bench = _Bench(experiment, cohort, where)
        found = federations(cohort, experiment)
        times = len(experiment.seeds)
        parts = [
            Part(part.what, None if part.seconds is None else times * part.seconds)
            for federation in found
            for part in bench.parts(federation)
        ]
    models = sum(_models(experiment, each) for each in found)
    return Estimate(
        experiment.name,
        where,
        experiment.seeds,
        tuple(found),
        tuple(parts),
        _most_memory() + max(bench.held(each) for each in found),
        times * bench.weights * models + REPORT_BYTES,
        bench.measured,
    )


def _models(experiment: Experiment, federation: Federation) -> int:
    """Count the models that a federation leaves on disk: pool, fused, pooled, and the latest rounds'."""
    own = len(federation.members) if experiment.training.fine_tune != "none" else 1
    kept = min(experiment.training.rounds, experiment.federation.keep)
    return own + kept + len(federation.targets) * (1 + len(experiment.fusion))


def _import_what_a_run_imports() -> None:
    """Import the modules that only a run needs, for their memory."""
    import fedmerge.federation.grids.local
    import fedmerge.federation.server
    import fedmerge.reports.run_report  # noqa: F401


def _most_memory() -> int:
    """Return the bytes of memory that this process took at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class _Bench:
    """An experiment's network on its device, timed on its own images."""

    def __init__(self, experiment: Experiment, cohort: Cohort, device: str) -> None:
        self.experiment, self.cohort, self.device = experiment, cohort, device
        self.plan: FederationPlan = plan_of(experiment, cohort, experiment.seeds[0])
        self.network = build(self.plan.model, seed=0)
        self.weights = sum(t.numel() * t.element_size() for t in self.network.state_dict().values())
        self.measured: dict[str, float] = {}
        first = next(site for site in cohort.sites if len(site.train))
        images, self.normalise = first.train, self.plan.normalisation.at(first)
        self.step = self._timed("seconds a training step", lambda: self._train(images))
        self._predict(self._some(AT_ONCE))  # for its memory
        few = images.images[: experiment.evaluation.batch_size]
        self.image = self._timed("seconds a prediction", lambda: self._predict(few)) / len(few)
        self.measured["seconds a prediction"] = self.image

    def held(self, federation: Federation) -> int:
        """Return the bytes that a run holds besides: models, the round's sums in float64, pooled images."""
        models = _models(self.experiment, federation) + len(federation.members) + 2
        sources = {
            name
            for target in federation.targets
            for name in self.experiment.sources(target, federation.members)
        }
        pooled = sum(self.cohort[name].train.images.nbytes for name in sources)
        return models * self.weights + pooled

    def parts(self, federation: Federation) -> list[Part]:
        """Return the parts of one federation with one seed."""
        steps = {name: self._steps(self.cohort[name].train, name) for name in federation.members}
        validated = sum(len(self.cohort[name].val) for name in federation.members)
        rounds = self.experiment.training.rounds
        trained = sum(sum(each) for each in steps.values())
        who = f"{federation.name}: {len(federation.members)} hospitals"
        parts = [
            Part(
                f"{who}, {trained:,} training steps",
                trained * self.step + (rounds + 1) * validated * self.image,
            )
        ]
        for target in federation.targets:
            sources = self.experiment.sources(target, federation.members)
            pooled = sum(sum(steps[name]) for name in sources)
            parts.append(Part(f"pooled training for {target}, {pooled:,} steps", pooled * self.step))
            fused = ", ".join(entry.label for entry in self.experiment.fusion)
            if fused:
                parts.append(Part(f"fusion for {target}: {fused}", None))
            parts += self._evaluation(target, len(sources))
        return parts

    def _steps(self, split: Split, name: str) -> tuple[int, int]:
        """Return a hospital's steps in all rounds, and in its fine-tuning."""
        local, own = self.plan.local, self.plan.fine_tune
        rounds = self.plan.rounds * _epochs(local, split)
        return rounds, 0 if own is None else _epochs(own, split)

    def _evaluation(self, target: str, sources: int) -> list[Part]:
        evaluation = self.experiment.evaluation
        images = self._arriving(target)
        views = 1 + len(evaluation.shifted)
        streams = len(evaluation.streams)
        fixed = sources + 1 + len(self.experiment.fusion)
        passes = sources + 1 + sum(self._passes(entry, sources) for entry in self.experiment.fusion)
        batches = -(-images // evaluation.batch_size)
        parts = [
            Part(
                f"{fixed} models on {images:,} images of {target}, "
                f"{views} {'view' if views == 1 else 'views'}",
                passes * images * views * self.image,
            )
        ]
        for entry in self.experiment.testtime:
            seconds = self._node(entry, 1 if entry.start == "pooled" else sources)
            whole = None if seconds is None else seconds * batches * streams * views
            tuned = " without its tuning" if entry.tune is not None else ""
            parts.append(Part(f"{entry.label} on {streams} streams of {target}{tuned}", whole))
        return parts

    def _arriving(self, target: str) -> int:
        """Count the images that arrive at a target."""
        evaluation = self.experiment.evaluation
        names = [target]
        if target == MIXED and evaluation.mixed:
            names = [site.name for site in self.cohort.sites if site.unseen]
        whole = evaluation.split == "all" and self.experiment.unseen != "none"
        sites = [self.cohort[name] for name in names]
        images = sum(len(site.everything if whole else site.test) for site in sites)
        return images if evaluation.images is None else min(images, evaluation.images)

    @staticmethod
    def _passes(entry: MethodConfig, sources: int) -> int:
        return sources if entry.method.startswith("ensemble") else 1

    def _node(self, entry: MethodConfig, sources: int) -> float | None:
        """Time a test-time method on two batches; None where it cannot be made of untrained models."""
        size, spec = self.experiment.evaluation.batch_size, self.plan.model
        images = self._some(size)
        try:
            method = TESTTIME[entry.method]
            models = [build(spec, seed=number).to(self.device).eval() for number in range(sources)]
            node = method.call(models, **method.check(entry.options))
            batch = self.normalise(images.to(self.device))
            return self._timed(f"seconds a batch of {entry.label}", lambda: _observe(node, batch)) / 2
        except FedMergeError:
            return None

    def _some(self, count: int) -> Tensor:
        """Return ``count`` images of the hospitals, some of them twice where there are too few."""
        images = next(site.train.images for site in self.cohort.sites if len(site.train))
        return images[torch.arange(count) % len(images)]

    def _train(self, images: Split) -> int:
        return train_some(self.plan, images, self.normalise, self.device, steps=STEPS)

    def _predict(self, images: Tensor) -> int:
        predict(self.network, images, self.normalise, device=self.device)
        return 1

    def _timed(self, what: str, work: Callable[[], int]) -> float:
        """Return the seconds of a piece of work per step, the smaller of two after one to warm up."""
        work()
        seconds = min(_seconds(work) for _ in range(2))
        self.measured[what] = seconds
        return seconds


def _seconds(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    steps = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def _observe(node: Any, batch: Tensor) -> int:
    node.reset()
    for _ in range(2):
        node.observe(batch)
    return 1


def _epochs(options: TrainingOptions, split: Split) -> int:
    return options.epochs * len(batch_sizes(len(split), options.batch_size))
