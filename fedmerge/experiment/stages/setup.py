"""The setup of one federation of a run: its plan, its pool on disk, and its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from fedmerge.analysis import METRICS
from fedmerge.data import Cohort, Split
from fedmerge.data.cohort.content import public_content
from fedmerge.data.images.images import concat
from fedmerge.engine.checkpoints import Checkpoints
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.federations import MIXED
from fedmerge.experiment.kinds import MODELS
from fedmerge.experiment.stages.evaluation import EvaluationConditions
from fedmerge.experiment.stages.planning import plan_of
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.experiment.stages.training_progress import TrainingProgress
from fedmerge.federation import LOCAL, FederationPlan
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models.cards import Origin, PixelSpacing
from fedmerge.models.inputs import Inputs, Normalisation, Normalise, PerImage
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.seeding import numpy_generator

FEDERATED = "federated"
"""The name of the model of the rounds, in the pool where no hospital hands out its own."""

if TYPE_CHECKING:
    from fedmerge.federation import Backend, Server
    from fedmerge.federation.client_registry import Client
    from fedmerge.federation.policy.proposal import Proposal


@dataclass(frozen=True)
class Setup:
    """One federation of one seed: its members, plan, pool, folder, record, device and backend.

    server: the server whose hospitals are here already; None: each programme waits for them. public: the
    content of the server's public images, as it was here when the work began.
    """

    experiment: Experiment
    cohort: Cohort
    plan: FederationPlan
    members: tuple[str, ...]
    pool: ModelPool
    folder: Path
    record: Record
    device: str
    backend: Backend
    checkpoints: Checkpoints
    journal: RoundJournal | None
    server: Server | None = None
    public: str = ""
    _streams: dict[str, TargetStreams] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.plan.seed

    @property
    def normalisation(self) -> Inputs:
        """The normalisation of images before the network, or the rule that each hospital has its own."""
        return self.plan.normalisation

    def normalise(self, name: str) -> Normalisation:
        """Return the normalisation of a hospital's images; of an unseen one, too, by its training images."""
        if isinstance(self.normalisation, Normalisation):
            return self.normalisation
        return self.normalisation.at(self.cohort.here(name))

    def arriving_images(self, target: str) -> Split:
        """Return the images that arrive at a hospital: of one that trained, its test images alone.

        At ``mixed``, those of each unseen site, one site after the other in the cohort's order. Where
        ``evaluation.images`` limits them, as many are drawn by seed and place, and stay in their order.
        """
        return self._at_most(self._everything_at(target), "arrivals", target)

    def held_out_images(self, source: str) -> Split:
        """Return the validation images with which a source plays an unseen hospital, at most as many."""
        return self._at_most(self.cohort.here(source).val, "held out", source)

    def _at_most(self, split: Split, purpose: str, name: str) -> Split:
        limit = self.experiment.evaluation.images
        if limit is None or len(split) <= limit:
            return split
        rng = numpy_generator(self.seed, purpose, site=name)
        return split.select(np.sort(rng.choice(len(split), limit, replace=False)))

    def target_streams(self, target: str) -> TargetStreams:
        """Return the streams of the images that arrive at a hospital; those of the last one are kept."""
        if target not in self._streams:
            self._streams.clear()
            images = self.arriving_images(target)
            self._streams[target] = TargetStreams.of(target, images, self.experiment.evaluation, self.seed)
        return self._streams[target]

    def _everything_at(self, target: str) -> Split:
        names = [site.name for site in self.cohort.sites]
        if target == MIXED and MIXED not in names:
            unseen = [self._everything_at(name) for name in names if name not in self.members]
            return concat(unseen, apart=True)
        site = self.cohort[target]
        everything = self.experiment.evaluation.split == "all" and self.experiment.unseen != "none"
        return site.everything if everything else site.test

    def sources(self, target: str) -> tuple[str, ...]:
        """Return the hospitals whose models ``target`` gets: those in the pool; itself only if it trained."""
        return self.experiment.sources(target, self.pool.names)

    def union(self, target: str, split: Literal["train", "val"] = "train") -> Split:
        """Return all images that pooled training for ``target`` may see, from one split."""
        return concat([getattr(self.cohort.here(name), split) for name in self._pooled(target)])

    def normalise_union(self, target: str, split: Literal["train", "val"] = "train") -> Normalise:
        """Return the normalisation of the images of ``union``, in their order."""
        if isinstance(self.normalisation, Normalisation):
            return self.normalisation
        names = self._pooled(target)
        counts = torch.tensor([len(getattr(self.cohort[name], split)) for name in names])
        owners = torch.arange(len(names)).repeat_interleave(counts)
        return PerImage(tuple(map(self.normalise, names)), owners)

    def _pooled(self, target: str) -> tuple[str, ...]:
        return self.experiment.sources(target, self.members)

    def conditions(self, target: str) -> EvaluationConditions:
        """Return the conditions under which predictors are measured at ``target``."""
        metrics = tuple(METRICS.among(self.experiment.plugins))
        conditions = EvaluationConditions(
            self.experiment.evaluation, self.normalise(target), self.device, self.sources(target), metrics
        )
        return replace(conditions, task=self.cohort.task, class_names=self.cohort.class_names)

    def models(self, *place: str) -> ModelPool:
        """Return the pool at a place in the federation's folder: ``start``; ``TARGET``, ``fused``."""
        return ModelPool(self.folder.joinpath(*place), counts=self.checkpoints.has)

    def with_server(self, programme: Callable[[Server], None]) -> None:
        """Run a server's programme with the members as its hospitals, on the run's backend.

        The programme may end between two messages, where the record's ``pause`` says so.
        """
        from fedmerge.federation import server_app

        if self.server is not None:
            programme(self.server)
            return

        shown = TrainingProgress(self.seed, self.plan, self.record)

        def pausing(server: Server) -> None:
            server.strategy.between, server.strategy.turn = self.record.pause, shown.turn
            programme(server)

        members = [self.cohort[name] for name in self.members]
        app = server_app(self.plan, pausing, self.members, self.proposal())
        self.backend.simulate(app, members, device=self.device, progress=shown.step)

    def proposal(self) -> Proposal:
        """Return what the hospitals learn of the run before they get a request."""
        from fedmerge.federation.policy.proposal import Proposal, SumsAsked, plugins_of

        data = self.experiment.fusion_data
        stay = data is not None and data.origin == "hospitals"
        sums = SumsAsked(images=data.images, split=data.split) if data is not None and stay else None
        named = plugins_of(self.plan)
        return Proposal(experiment=self.experiment.name, plan=self.plan, sums=sums, plugins=named)

    def keep(self, client: Client, state: State, metrics: dict[str, Any], own: dict[str, Any]) -> None:
        """Put a hospital's own model into the pool, with the numbers of its training on the card.

        own: its numbers on its own validation images. The score that the experiment selects by goes onto the
        card as ``validation``, the fitted temperature as ``temperature``.
        """
        numbers = {key: float(metrics[key]) for key in ("loss", "accuracy", "num-examples")}
        numbers |= {"validation": float(own[self.experiment.selection])}
        numbers |= {"temperature": float(own["temperature"])}
        self.keep_in(self.pool, client.name, state, "local training", (), numbers, client.spacing)

    def keep_federated(self, state: State, numbers: dict[str, float], training: float) -> None:
        """Put the model of the rounds into the pool.

        numbers: the hospitals' scores of it (``Server.numbers``). training: their mean accuracy on training
        images in the last round.
        """
        card = {key: numbers[key] for key in ("loss", "accuracy", "temperature")} | {"training": training}
        card |= {"validation": numbers[self.experiment.selection]}
        self.keep_in(self.pool, FEDERATED, state, "federated rounds", (), card)

    def keep_in(
        self,
        pool: ModelPool,
        name: str,
        state: State,
        method: str,
        parents: tuple[str, ...],
        metrics: dict[str, float],
        spacing: tuple[float, ...] = (),
    ) -> None:
        """Add a model and its card to a pool of this federation. spacing: as ``Client`` has it."""
        apart = None
        if spacing:
            apart = PixelSpacing(rows=spacing[0], columns=spacing[1], varies=bool(spacing[2]))
        pool.add(
            name=name,
            state=state,
            model=self.plan.model,
            normalisation=self.normalisation,
            class_names=self.cohort.class_names,
            method=method,
            origin=Origin(
                parents, self.seed, str(self.record.common["config_hash"]), self.plan.batch_norm, apart
            ),
            metrics=metrics,
        )
        self.checkpoints.register(*(pool.folder / f"{name}.{ending}" for ending in ("safetensors", "json")))


def checkpoints_in(folder: Path | None, record: Record) -> Checkpoints:
    """Return the checkpoints of a run or a task, kept in ``folder/journal``; None keeps nothing."""
    return Checkpoints(folder, record, owned=MODELS, remarks=record.remarks, pause=lambda: record.pause())


def set_up(
    experiment: Experiment,
    cohort: Cohort,
    members: tuple[str, ...],
    seed: int,
    folder: Path,
    record: Record,
    device: str,
    checkpoints: Checkpoints | None = None,
) -> Setup:
    """Derive the plan from the experiment and the cohort; open the pool. Its backend is this process.

    checkpoints: those that are kept as soon as they are finished, of which an earlier process's count where
    they were verified; None keeps none.
    """
    checkpoints = checkpoints_in(None, record) if checkpoints is None else checkpoints
    kept, rounds = experiment.federation.keep, folder / "journal" / "rounds"
    journal = None if checkpoints.folder is None else RoundJournal(rounds, kept, record.remarks)
    plan, pool = plan_of(experiment, cohort, seed), ModelPool(folder / "pool", counts=checkpoints.has)
    public = public_content(experiment.fusion_data, cohort.folder)
    return Setup(
        experiment,
        cohort,
        plan,
        members,
        pool,
        folder,
        record,
        device,
        LOCAL,
        checkpoints,
        journal,
        public=public,
    )
