"""Who trains together for whom: the federations of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from fedmerge.data import Cohort, CohortSpec
from fedmerge.errors import FedMergeError, unknown
from fedmerge.study.config import Experiment


@dataclass(frozen=True)
class Federation:
    """Hospitals that train together, and the hospitals that will receive what they learned."""

    name: str
    members: tuple[str, ...]
    targets: tuple[str, ...]


def federations(cohort: Cohort | CohortSpec, experiment: Experiment) -> list[Federation]:
    """Who trains together for whom.

    ``unseen: cohort`` follows the sites file; a list of names makes those the unseen ones; ``each`` leaves
    every site out in turn; with ``none`` all train and each is deployed at on its test images. Without
    federated rounds a hospital's model does not depend on the others, so with ``each`` all hospitals train
    once and every target gets the pool without its own model.
    """
    everyone = tuple(site.name for site in cohort.sites)
    if experiment.unseen == "none":
        return [Federation("everyone", everyone, everyone)]
    if experiment.unseen == "each":
        if len(everyone) < 2:
            raise FedMergeError(f"unseen: each needs at least two sites, but '{cohort.name}' has one.")
        if experiment.training.rounds == 0:
            return [Federation("all", everyone, everyone)]
        return [
            Federation(f"without-{name}", tuple(s for s in everyone if s != name), (name,))
            for name in everyone
        ]
    unseen = tuple(site.name for site in cohort.sites if site.unseen)
    if experiment.unseen != "cohort":
        unseen = experiment.unseen
        for name in unseen:
            if name not in everyone:
                raise unknown("site", name, everyone)
    members = tuple(name for name in everyone if name not in unseen)
    if not unseen:
        raise FedMergeError(
            f"cohort '{cohort.name}' has no unseen site: mark one with 'unseen: true', or set 'unseen' in "
            "the experiment to 'each', 'none' or a list of names."
        )
    if not members:
        raise FedMergeError(f"all sites of cohort '{cohort.name}' are unseen: leave at least one to train.")
    return [Federation("federation", members, unseen)]
