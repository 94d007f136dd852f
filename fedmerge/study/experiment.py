"""One experiment, one seed: hospitals train, the server fuses, an unseen hospital adapts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.federation import Server, server_app, simulate
from fedmerge.study.candidates import adaptive, alone, fuse, pooled
from fedmerge.study.config import Experiment
from fedmerge.study.deployment import Arrivals, Candidate, deploy, save_streams
from fedmerge.study.record import Record
from fedmerge.study.setup import Setup, set_up


@dataclass(frozen=True)
class Federation:
    """Hospitals that train together, and the hospitals that will receive what they learned."""

    name: str
    members: tuple[str, ...]
    targets: tuple[str, ...]


def run_seed(
    experiment: Experiment, cohort: Cohort, seed: int, folder: Path, record: Record, device: str
) -> None:
    """Run one seed into ``folder``; everything measured goes to ``record``."""
    for federation in federations(cohort, experiment):
        setup = set_up(experiment, cohort, federation.members, seed, folder / federation.name, record, device)
        fused = train_and_fuse(setup, federation)
        for target in federation.targets:
            deploy_all(setup, fused[target], target)


def train_and_fuse(setup: Setup, federation: Federation) -> dict[str, list[Candidate]]:
    """The federated part: rounds, each hospital's own fine-tuning into the pool, fusion for each target."""
    fused: dict[str, list[Candidate]] = {}

    def programme(server: Server) -> None:
        try:
            start = server.rounds(server.start())
            for name, state, metrics in server.fine_tune(start):
                setup.keep(name, state, metrics)
            for target in federation.targets:
                fused[target] = fuse(setup, server, target)
        finally:
            setup.record.federation(setup.seed, federation.name, server.strategy)

    members = [setup.cohort[name] for name in federation.members]
    setup.record.stage(f"seed {setup.seed}: training", jobs=len(members) * (setup.plan.rounds + 1))
    simulate(server_app(setup.plan, programme), members, device=setup.device, progress=setup.record.step)
    return fused


def deploy_all(setup: Setup, fused: list[Candidate], target: str) -> None:
    """Deploy at one unseen hospital: every hospital alone, pooled training, fusion, test-time methods."""
    deployment = setup.experiment.deployment
    site = Arrivals.of(target, setup.arrivals(target), deployment, setup.seed)
    save_streams(site, setup.folder / target)
    sources = setup.sources(target)
    tried = chain(alone(setup, target), pooled(setup, target), fused, adaptive(setup, target))
    for candidate in tried:
        setup.record.stage(f"seed {setup.seed}: {candidate.label} at {target}", jobs=len(site.orders))
        try:
            for row, trace in deploy(candidate, site, deployment, setup.normalisation, setup.device, sources):
                setup.record.result(setup.seed, target, row, trace)
                setup.record.step(row["stream"], 1, 1)
        except FedMergeError as error:
            setup.record.failure(setup.seed, candidate.label, target, str(error))


def federations(cohort: Cohort, experiment: Experiment) -> list[Federation]:
    """Who trains together for whom.

    ``unseen: cohort`` follows the sites file; a list of names makes those the unseen ones; ``each`` leaves
    every site out in turn. Without federated rounds a hospital's model does not depend on the others, so
    with ``each`` all hospitals train once and every target gets the pool without its own model.
    """
    everyone = [site.name for site in cohort.sites]
    if experiment.unseen == "each":
        if len(everyone) < 2:
            raise FedMergeError(f"unseen: each needs at least two sites, but '{cohort.name}' has one.")
        if experiment.training.rounds == 0:
            return [Federation("all", tuple(everyone), tuple(everyone))]
        return [
            Federation(f"without-{name}", tuple(s for s in everyone if s != name), (name,))
            for name in everyone
        ]
    unseen = [site.name for site in cohort.unseen]
    if experiment.unseen != "cohort":
        unseen = [cohort[name].name for name in experiment.unseen]
    members = tuple(name for name in everyone if name not in unseen)
    if not unseen:
        raise FedMergeError(
            f"cohort '{cohort.name}' has no unseen site: mark one with 'unseen: true', or set 'unseen' in "
            "the experiment to 'each' or a list of names."
        )
    if not members:
        raise FedMergeError(f"all sites of cohort '{cohort.name}' are unseen: leave at least one to train.")
    return [Federation("federation", members, tuple(unseen))]
