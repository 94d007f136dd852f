"""Checks of an experiment before training and before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from fedmerge.data import Cohort, CohortSpec, FusionData, build_cohort
from fedmerge.data.cohort.fusion import server_set
from fedmerge.errors import Faults, FedMergeError, nearest
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.configuration.needs import needs_of
from fedmerge.experiment.stages.planning import model_spec, plan_of
from fedmerge.federation.aggregators.fused import SUMMED
from fedmerge.federation.packing import MINIMUM
from fedmerge.federation.privacy.secure_sum import FEWEST
from fedmerge.federation.server.plan_checks import check_plan
from fedmerge.models.inputs import PER_SITE, PerSite
from fedmerge.models.zoo import build
from fedmerge.training import TrainingOptions, needs_batch_statistics
from fedmerge.training.objective import check_weights


def check(experiment: Experiment, cohort: Cohort, elsewhere: bool = False) -> None:
    """Raise FedMergeError for what cannot be done: network, federation, batch sizes, images to fuse with.

    elsewhere: whether remote hospitals take part with images of their own; else every image must be here.
    """
    faults = Faults()
    who = federations(cohort, experiment)
    members = {name for federation in who for name in federation.members}
    visited = {name for federation in who for name in federation.targets}
    visited |= {site.name for site in cohort.sites if site.name not in members}
    with faults.kept():
        _check_here(cohort, visited, elsewhere)
    if experiment.normalisation == PER_SITE:
        for name in sorted(visited & {site.name for site in cohort.sites if not site.remote}):
            with faults.kept():
                PerSite("site").at(cohort[name])
    for size in dict.fromkeys(len(federation.members) for federation in who):
        with faults.kept():
            check_plan(plan_of(experiment, cohort, experiment.seeds[0]), size)
    with faults.kept():
        network = build(model_spec(experiment, cohort), seed=0)
        _check_batches(experiment, cohort, members, needs_batch_statistics(network)).say()
    for field, options in _trainings(experiment):
        with faults.kept():
            check_weights(cohort.task, cohort.task.width(cohort.n_classes), options, field)
    with faults.kept():
        _check_round_sums(experiment, cohort, members)
    if experiment.fusion_data is not None:
        with faults.kept():
            _check_fusion_data(experiment, experiment.fusion_data, cohort, members)
        with faults.kept():
            _check_masked(experiment, experiment.fusion_data, who)
    faults.say()


def check_seeds(experiment: Experiment, spec: CohortSpec, first: Cohort, elsewhere: bool = False) -> None:
    """Check each seed's cohort; ``first`` is that of the first seed. Faults of other seeds say their seed."""
    check(experiment, first, elsewhere)
    faults = Faults()
    for seed in experiment.seeds[1:]:
        try:
            check(experiment, build_cohort(spec, seed), elsewhere)
        except FedMergeError as error:
            faults.found += error.inside(f"seed {seed}").args
    faults.say()


def _trainings(experiment: Experiment) -> list[tuple[str, TrainingOptions]]:
    """Return the options of every training, each with its place in the configuration."""
    tuned = experiment.training.fine_tune
    more = [] if tuned == "none" else [("training.fine_tune", tuned)]
    return [("training", experiment.training.local), *more]


def _check_batches(experiment: Experiment, cohort: Cohort, members: set[str], normed: bool) -> Faults:
    """Find batch sizes that the network cannot train with, and hospitals that cannot fill a batch."""
    faults = Faults()
    for where, options in _trainings(experiment):
        field = f"{where}.batch_size"
        if options.batch_size == 1 and normed:
            faults.found.append(
                f"{field} is 1, but '{experiment.model.name}' has batch norm, which cannot normalise one "
                "image: set it to at least 2, or choose a network without batch norm."
            )
        for site in cohort.sites:
            if site.name in members and not site.remote and len(site.train) < options.batch_size:
                few = normed and len(site.train) < 2
                cure = "leave the hospital out" if few else f"lower it to at most {len(site.train)}"
                faults.found.append(
                    f"site '{site.name}' has {len(site.train)} training images, fewer than {field} "
                    f"{options.batch_size}: {cure}."
                )
    return faults


def _check_here(cohort: Cohort, visited: set[str], elsewhere: bool) -> None:
    for site in cohort.sites:
        if site.remote and not elsewhere:
            raise FedMergeError(
                f"the images of site '{site.name}' are at the hospital (source: remote), so this experiment "
                "needs it to take part: run it with `fedmerge deployment run` (docs/deployment.md)."
            )
        if site.remote and site.name in visited:
            raise FedMergeError(
                f"models are to be evaluated at '{site.name}', but its images are at the hospital (source: "
                "remote): name a source for it that the server has."
            )


def _check_round_sums(experiment: Experiment, cohort: Cohort, members: set[str]) -> None:
    """Check that an aggregator by sums over images can follow the network and has enough images each."""
    method, options = experiment.federation.aggregate.method, experiment.federation.aggregate.options
    if method not in SUMMED or not experiment.training.rounds:
        return
    from fedmerge.federation.hospital.sums.answer import program_of  # it imports Flower

    program_of(model_spec(experiment, cohort))
    split = options.get("split", "train")
    for site in cohort.sites:
        held = len(getattr(site, split))
        if site.name in members and held < MINIMUM:
            other = "set split to train, " if split != "train" and len(site.train) >= MINIMUM else ""
            raise FedMergeError(
                f"federation.aggregate: {method} takes sums over at least {MINIMUM} images of every "
                f"hospital, but '{site.name}' has {held} in its split '{split}': {other}leave the hospital "
                "out, or choose another aggregator."
            )


def _check_masked(experiment: Experiment, data: FusionData, who: Sequence[Federation]) -> None:
    """Check that masked sums have at least three hospitals, the same for every target of a federation."""
    asks = any(needs_of(entry).fusion_sums for entry in experiment.fusion)
    if not asks or data.origin != "hospitals" or not experiment.federation.masks_statistics:
        return
    what = "federation.secure_statistics adds up sums over images under masks"
    for federation in who:
        lists = {
            tuple(name for name in experiment.sources(target, federation.members) if _gives(data, name))
            for target in federation.targets
        }
        if len(lists) > 1:
            raise FedMergeError(
                f"{what}, of the same hospitals every time, because the difference of two sums would show "
                f"one's own, but with unseen: {experiment.unseen} each target is served by others: choose "
                "sites that are unseen, train in rounds, or take secure_statistics out."
            )
        fewest = min(map(len, lists), default=FEWEST)
        if fewest < FEWEST:
            raise FedMergeError(
                f"{what}, which takes at least {FEWEST} hospitals, but {fewest} give images: name more in "
                "fusion_data.sites, or take secure_statistics out."
            )


def _gives(data: FusionData, name: str) -> bool:
    return data.sites is None or name in data.sites


def _check_fusion_data(experiment: Experiment, data: FusionData, cohort: Cohort, members: set[str]) -> None:
    for name in data.sites or ():
        if name not in members:
            hospitals = ", ".join(sorted(members))
            raise FedMergeError(
                f"fusion_data.sites: '{name}' is no hospital that trains.{nearest(name, members)} Those that "
                f"train: {hospitals}."
            )
    if data.origin == "server":
        labelled = any(needs_of(entry).fusion_labels for entry in experiment.fusion)
        server_set(data, cohort, experiment.seeds[0], labelled)
