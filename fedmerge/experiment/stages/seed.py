"""One experiment, one seed: hospitals train, the server fuses, an unseen hospital adapts.

Every step is a checkpoint (``fedmerge.engine.checkpoints``): one that is finished is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.blame import blamed
from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.kinds import EVALUATION, FUSION, MAJORITY, TRAINING
from fedmerge.experiment.stages.diagnosis import diagnose_pool
from fedmerge.experiment.stages.evaluation import Predictor, TargetStreams, evaluation_tasks, save_streams
from fedmerge.experiment.stages.fine_tuning import fine_tune
from fedmerge.experiment.stages.majority import majority
from fedmerge.experiment.stages.predictors import (
    POOLED,
    adapt,
    alone,
    fuse,
    fuse_again,
    fused_network,
    fused_pool,
    keep_fused,
    pooled,
    train_pooled,
)
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.setup import Setup, set_up
from fedmerge.federation import LOCAL
from fedmerge.models.state import State
from fedmerge.storage.files import DiskError

if TYPE_CHECKING:
    from fedmerge.federation import Backend, Server


@dataclass(frozen=True)
class PendingPredictor:
    """A predictor that is still to be made: its label, and the function that makes it."""

    label: str
    make: Callable[[], Predictor]


def run_seed(
    experiment: Experiment,
    cohort: Cohort,
    seed: int,
    folder: Path,
    record: Record,
    device: str,
    backend: Backend = LOCAL,
) -> None:
    """Run one seed into ``folder``; all measurements, loaded ones too, go into ``record``."""
    for federation in federations(cohort, experiment):
        own, members = folder / federation.name, federation.members
        setup = set_up(experiment, cohort, members, seed, own, record, device, backend, journalled=True)
        fused, class_counts = train_and_fuse(setup, federation)
        for target in federation.targets:
            evaluate_all(setup, fused[target], target, class_counts)


def train_and_fuse(
    setup: Setup, federation: Federation
) -> tuple[dict[str, list[PendingPredictor]], dict[str, list[int]]]:
    """Do the federated part: rounds, each hospital's own fine-tuning into the pool, fusion for each target.

    Returns the fused models by target, and the training images per class that each hospital reported.
    """
    ensembles: dict[tuple[str, str], Predictor] = {}
    labels: dict[str, list[str]] = {}
    class_counts: dict[str, list[int]] = {}

    def programme(server: Server) -> None:
        server.strategy.between = setup.record.pause

        def record_events() -> None:
            setup.record.federation(setup.seed, federation.name, server.strategy)

        tally = setup.cohort.task.tally
        class_counts.update(
            {
                member.name: tally(member.class_counts, member.examples).tolist()
                for member in server.clients
                if any(member.class_counts)
            }
        )  # all 0: a hospital hides its counts
        try:
            start = server.rounds(server.start(), setup.journal)
            record_events()
            fine_tune(setup, server, start, record_events)
            diagnose_pool(setup, start)
            for target in federation.targets:
                labels[target] = fuse_all(setup, server, target, start, ensembles, record_events)
        finally:
            record_events()

    note = setup.checkpoints.load_if_done(TRAINING)
    if note is None:
        jobs = len(federation.members) * (setup.plan.rounds + (setup.plan.fine_tune is not None))
        setup.record.stage(f"seed {setup.seed}: training", jobs=jobs)
        with setup.checkpoints.save(TRAINING) as note:
            setup.with_server(programme)
            note |= {"fused": labels, "told": class_counts}
    fused = {target: _fused(setup, target, note["fused"][target], ensembles) for target in federation.targets}
    return fused, note.get("told", {})


def fuse_all(
    setup: Setup,
    server: Server,
    target: str,
    start: State,
    ensembles: dict[tuple[str, str], Predictor],
    record_events: Callable[[], None],
) -> list[str]:
    """Run every configured fusion method. One that fails is recorded, and the others go on.

    start: the weights from which the hospitals fine-tuned. ready: takes the ensembles, by target and label.
    Returns the labels of those that could be run.
    """
    labels = []
    for entry in setup.experiment.fusion:
        name = (TRAINING, FUSION, target, entry.label)
        note = setup.checkpoints.load_if_done(*name)
        if note is None:
            with setup.checkpoints.save(*name) as note:
                predictor = _fuse_one(setup, server, target, entry, start)
                note["fused"] = predictor is not None
                if predictor is not None and entry.label not in fused_pool(setup, target):
                    ensembles[target, entry.label] = predictor
                record_events()
        if note["fused"]:
            labels.append(entry.label)
    return labels


def _fuse_one(
    setup: Setup, server: Server, target: str, entry: MethodConfig, start: State
) -> Predictor | None:
    setup.record.stage(f"seed {setup.seed}: fusion by {entry.label} for {target}")
    try:
        predictor, result = fuse(setup, server, target, entry, start)
    except DiskError:
        raise
    except Exception as error:
        setup.record.failure(setup.seed, entry.label, target, _reason(error, entry.label))
        return None
    setup.record.fusion(setup.seed, target, entry.label, result.decisions)
    keep_fused(setup, target, predictor, result)
    return predictor


def _fused(
    setup: Setup, target: str, labels: list[str], ensembles: dict[tuple[str, str], Predictor]
) -> list[PendingPredictor]:
    """Return the fusions that succeeded: networks from their pool, ensembles as they are or made again."""
    networks, pending = fused_pool(setup, target), []
    for entry in setup.experiment.fusion:
        if entry.label in networks:
            make = partial(fused_network, setup, target, entry.label)
        elif (target, entry.label) in ensembles:
            make = partial(ensembles.__getitem__, (target, entry.label))
        else:
            make = partial(fuse_again, setup, target, entry)
        if entry.label in labels:
            pending.append(PendingPredictor(entry.label, make))
    return pending


def evaluate_all(
    setup: Setup, fused: list[PendingPredictor], target: str, class_counts: Mapping[str, Sequence[int]]
) -> None:
    """Evaluate at one hospital: majority class, hospitals alone, pooled training, fusion, test-time methods.

    told: training images per class, by hospital.
    """
    if setup.checkpoints.load_if_done(EVALUATION, target) is not None:
        return
    evaluation = setup.experiment.evaluation
    site = TargetStreams.of(target, setup.arriving_images(target), evaluation, setup.seed)
    save_streams(site, setup.folder / target)
    with setup.checkpoints.save(EVALUATION, target):
        for pending in _pending(setup, fused, target, class_counts):
            if setup.checkpoints.load_if_done(EVALUATION, target, pending.label) is None:
                with setup.checkpoints.save(EVALUATION, target, pending.label):
                    _evaluate(setup, pending, site)


def _evaluate(setup: Setup, pending: PendingPredictor, site: TargetStreams) -> None:
    """Measure one predictor, one evaluation task after the other. One that fails is recorded."""
    name = (EVALUATION, site.name, pending.label)
    try:
        predictor, conditions = pending.make(), setup.conditions(site.name)
        parts = site.parts(conditions.evaluation.shifted)
        setup.record.stage(f"seed {setup.seed}: {pending.label} at {site.name}", jobs=parts)
        for task in evaluation_tasks(predictor, site, conditions):
            if setup.checkpoints.load_if_done(*name, task.name) is None:
                with setup.checkpoints.save(*name, task.name):
                    for measured in task.measure():
                        setup.record.result(setup.seed, site.name, measured)
            for stream in task.target_streams.orders:
                setup.record.step(stream, 1, 1)
    except DiskError:
        raise
    except Exception as error:
        setup.record.failure(setup.seed, pending.label, site.name, _reason(error, pending.label))


def _reason(error: Exception, label: str) -> str:
    """Return the sentence of an error that fails one method alone; raise any other error again."""
    reason = str(error) if isinstance(error, FedMergeError) else blamed(error, f"method '{label}'")
    if reason is None:
        raise error
    return reason


def _pending(
    setup: Setup, fused: list[PendingPredictor], target: str, class_counts: Mapping[str, Sequence[int]]
) -> list[PendingPredictor]:
    references = setup.models(target, "references")
    start = setup.start if any(entry.needs_federated for entry in setup.experiment.testtime) else None

    def pooled_network() -> Predictor:
        name = (EVALUATION, target, POOLED, TRAINING)
        if setup.checkpoints.load_if_done(*name) is None:
            with setup.checkpoints.save(*name):
                train_pooled(setup, target, references)
        return pooled(setup, references)

    return [
        PendingPredictor(MAJORITY, partial(majority, setup, target, class_counts)),
        *(PendingPredictor(f"alone:{name}", partial(alone, setup, name)) for name in setup.sources(target)),
        PendingPredictor(POOLED, pooled_network),
        *fused,
        *(
            PendingPredictor(entry.label, partial(adapt, setup, target, entry, references, start))
            for entry in setup.experiment.testtime
        ),
    ]
