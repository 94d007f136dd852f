"""The plan of a federation's server, and its network, as an experiment and its images say."""

from __future__ import annotations

from typing import Any

from fedmerge.data import Cohort
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.federation import FederationPlan
from fedmerge.models.inputs import PER_SITE, Inputs, Normalisation, PerSite
from fedmerge.models.start_file import start_digest
from fedmerge.models.zoo import ModelSpec, default_normalisation
from fedmerge.schema.validation import validate


def plan_of(experiment: Experiment, cohort: Cohort, seed: int) -> FederationPlan:
    """Return the plan of a federation's server. Raises FedMergeError for images that no network takes."""
    spec = model_spec(experiment, cohort)
    return FederationPlan(
        model=spec,
        normalisation=_inputs(experiment.normalisation, spec),
        seed=seed,
        rounds=experiment.training.rounds,
        start=experiment.training.start,
        local=experiment.training.local,
        fine_tune=None if experiment.training.fine_tune == "none" else experiment.training.fine_tune,
        batch_norm=experiment.batch_norm,
        federation=experiment.federation,
    )


def _inputs(named: str, spec: ModelSpec) -> Inputs:
    if named == PER_SITE:
        return PerSite("site")
    return default_normalisation(spec) if named == "default" else Normalisation.named(named)


def model_spec(experiment: Experiment, cohort: Cohort) -> ModelSpec:
    """Return an experiment's network for a cohort's images. Raises FedMergeError if they are not square."""
    channels, height, width = cohort.shape
    if height != width:
        raise FedMergeError(
            f"cohort '{cohort.name}' has images of {height} x {width} px, but networks take square ones: "
            "set 'size' in the cohort."
        )
    shape: dict[str, Any] = {"in_channels": channels, "n_classes": cohort.n_classes, "image_size": height}
    shape |= {"task": cohort.task.name, "start_sha256": start_digest(experiment.model.pretrained)}
    return validate(ModelSpec, experiment.model.model_dump() | shape, "model")
