"""The federations of an experiment: which hospitals train together for which targets."""

from __future__ import annotations

from dataclasses import dataclass

from fedmerge.data import Cohort, CohortSpec
from fedmerge.errors import FedMergeError, unknown
from fedmerge.experiment.configuration.config import Experiment

MIXED = "mixed"
"""The place where the images of all unseen sites arrive together."""


@dataclass(frozen=True)
class Federation:
    """Hospitals that train together, and the targets that receive their models."""

    name: str
    members: tuple[str, ...]
    targets: tuple[str, ...]


def federations(cohort: Cohort | CohortSpec, experiment: Experiment) -> list[Federation]:
    """Return the federations of an experiment.

    ``unseen: cohort`` follows the sites file; a list of names makes those the unseen ones; ``each`` leaves
    every site out in turn; with ``none`` all train and each is a target with its test images. Without
    federated rounds a hospital's model does not depend on the others, so with ``each`` all hospitals train
    once and every target gets the pool without its own model. With ``evaluation.mixed`` the unseen sites are
    one target, ``mixed``. Raises FedMergeError where no site is unseen, none trains, or none can be mixed.
    """
    everyone = tuple(site.name for site in cohort.sites)
    if experiment.evaluation.mixed and experiment.unseen in ("each", "none"):
        why = {"each": "every site gets other models", "none": "no site is unseen"}[str(experiment.unseen)]
        raise FedMergeError(
            f"evaluation.mixed puts unseen sites that get the same models into one stream, but with unseen: "
            f"{experiment.unseen}, {why}: list at least two unseen sites, or take mixed out."
        )
    if experiment.unseen == "none":
        return [Federation("everyone", everyone, everyone)]
    if experiment.unseen == "each":
        if len(everyone) < 2:
            raise FedMergeError(
                f"unseen: each needs at least two sites, but '{cohort.name}' has one: add another."
            )
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
    targets = _mixed(unseen, everyone) if experiment.evaluation.mixed else unseen
    return [Federation("federation", members, targets)]


def _mixed(unseen: tuple[str, ...], everyone: tuple[str, ...]) -> tuple[str, ...]:
    if len(unseen) < 2:
        raise FedMergeError(
            f"evaluation.mixed needs at least two unseen sites, but only '{unseen[0]}' is unseen: list "
            "another in 'unseen', or take mixed out."
        )
    if MIXED in everyone:
        raise FedMergeError(
            f"evaluation.mixed calls all unseen sites together '{MIXED}', and a site has that name: "
            "rename it."
        )
    return (MIXED,)
