"""What can be known to fail before the first image is trained on, said before anything is written."""

from __future__ import annotations

from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.models.zoo import build
from fedmerge.study.config import Experiment
from fedmerge.study.federations import federations
from fedmerge.study.setup import model_spec
from fedmerge.training import needs_batch_statistics


def check(experiment: Experiment, cohort: Cohort) -> None:
    """Raise FedMergeError for a network that cannot be built, an impossible batch size, no unseen site."""
    members = {name for federation in federations(cohort, experiment) for name in federation.members}
    network = build(model_spec(experiment, cohort), seed=0)
    for options, field in (
        (experiment.training.local, "training.batch_size"),
        (experiment.training.fine_tune, "training.fine_tune.batch_size"),
    ):
        if options.batch_size == 1 and needs_batch_statistics(network):
            raise FedMergeError(
                f"{field} is 1, but '{experiment.model.name}' has batch norm, which cannot normalise one "
                "image: set it to at least 2, or choose a network without batch norm."
            )
        for site in cohort.sites:
            if site.name in members and len(site.train) < options.batch_size:
                raise FedMergeError(
                    f"site '{site.name}' has {len(site.train)} training images, fewer than {field} "
                    f"{options.batch_size}: lower it to at most {len(site.train)}."
                )
