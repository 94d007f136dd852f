"""One experiment, one seed: hospitals train, the server fuses, an unseen hospital adapts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.federation import HERE
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.study.candidates import POOLED, adapt, alone, fuse, keep_fused, pooled, train_pooled
from fedmerge.study.config import Experiment
from fedmerge.study.deployment import Arrivals, Candidate, deploy, save_streams
from fedmerge.study.federations import Federation, federations
from fedmerge.study.record import Record
from fedmerge.study.setup import Setup, set_up

if TYPE_CHECKING:
    from fedmerge.federation import Place, Server


def run_seed(
    experiment: Experiment,
    cohort: Cohort,
    seed: int,
    folder: Path,
    record: Record,
    device: str,
    place: Place = HERE,
) -> None:
    """Run one seed into ``folder``; everything measured goes to ``record``."""
    for federation in federations(cohort, experiment):
        own = folder / federation.name
        setup = set_up(experiment, cohort, federation.members, seed, own, record, device, place)
        fused = train_and_fuse(setup, federation)
        for target in federation.targets:
            deploy_all(setup, fused[target], target)


def train_and_fuse(setup: Setup, federation: Federation) -> dict[str, list[Candidate]]:
    """The federated part: rounds, each hospital's own fine-tuning into the pool, fusion for each target."""
    fused: dict[str, list[Candidate]] = {target: [] for target in federation.targets}

    def programme(server: Server) -> None:
        try:
            start = server.rounds(server.start())
            fine_tune(setup, server, start)
            for target in federation.targets:
                fused[target] = list(fuse_all(setup, server, target, start))
        finally:
            setup.record.federation(setup.seed, federation.name, server.strategy)

    jobs = len(federation.members) * (setup.plan.rounds + (setup.plan.fine_tune is not None))
    setup.record.stage(f"seed {setup.seed}: training", jobs=jobs)
    setup.with_server(programme)
    return fused


def fine_tune(setup: Setup, server: Server, start: State) -> None:
    """Each hospital trains its own copy of ``start``; with its validation numbers it goes into the pool.

    Without fine-tuning it is the model of the rounds that does.
    """
    if setup.plan.fine_tune is None:
        setup.keep_federated(start, server.numbers(start))
    for name, state, metrics in server.fine_tune(start):
        setup.keep(name, state, metrics, server.own_numbers(state, name))


def fuse_all(setup: Setup, server: Server, target: str, start: State) -> Iterator[Candidate]:
    """Every configured fusion method. One that cannot be run is recorded, and the others go on.

    start: the weights from which the hospitals fine-tuned.
    """
    for entry in setup.experiment.fusion:
        setup.record.stage(f"seed {setup.seed}: fusion by {entry.label} for {target}")
        try:
            candidate, result = fuse(setup, server, target, entry, start)
        except FedMergeError as error:
            setup.record.failure(setup.seed, entry.label, target, str(error))
            continue
        setup.record.fusion(setup.seed, target, entry.label, result.decisions)
        keep_fused(setup, target, entry.label, result)
        yield candidate


def deploy_all(setup: Setup, fused: list[Candidate], target: str) -> None:
    """Deploy at one hospital: every hospital alone, pooled training, fusion, test-time methods."""
    deployment = setup.experiment.deployment
    site = Arrivals.of(target, setup.arrivals(target), deployment, setup.seed)
    save_streams(site, setup.folder / target)
    for candidate in _tried(setup, fused, target):
        parts = site.parts(deployment.shifted)
        setup.record.stage(f"seed {setup.seed}: {candidate.label} at {target}", jobs=parts)
        try:
            for measured in deploy(candidate, site, setup.conditions(target)):
                setup.record.result(setup.seed, target, measured)
                setup.record.step(measured.row["stream"], 1, 1)
        except FedMergeError as error:
            setup.record.failure(setup.seed, candidate.label, target, str(error))


def _tried(setup: Setup, fused: list[Candidate], target: str) -> Iterator[Candidate]:
    yield from alone(setup, target)
    references = ModelPool(setup.folder / target / "references")
    try:
        train_pooled(setup, target, references)
        yield pooled(setup, references)
    except FedMergeError as error:
        setup.record.failure(setup.seed, POOLED, target, str(error))
    yield from fused
    for entry in setup.experiment.testtime:
        try:
            adapted = adapt(setup, target, entry, references)
        except FedMergeError as error:
            setup.record.failure(setup.seed, entry.label, target, str(error))
            continue
        yield adapted
