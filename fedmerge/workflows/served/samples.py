"""Images that a service takes: to try it with, and for the hospital's own normalisation."""

from __future__ import annotations

from torch import Tensor

from fedmerge.data import CohortSpec, Site, build_cohort
from fedmerge.data.cohort.fusion import balanced
from fedmerge.data.sources.medmnist import no_downloads
from fedmerge.data.sources.sources import load_source
from fedmerge.errors import FedMergeError
from fedmerge.models.inputs import Normalisation
from fedmerge.schema.validation import validate
from fedmerge.seeding import numpy_generator
from fedmerge.tasks.label_sets import strata
from fedmerge.workflows.model_files import at_hospital
from fedmerge.workflows.served.places import Found

MOST = 32
OF_RUN = "run"


def samples(found: Found, source: str) -> Tensor:
    """Return images to try, uint8 N x C x H x W, class-balanced, the same ones each time.

    source: ``run``, the images that arrived at the run's unseen hospital, or a source as in a cohort, whose
    test images are taken. Raises FedMergeError where they are not on this machine.
    """
    split = _site(found, "--samples").everything if source == OF_RUN else load_source(source).test
    if not len(split):
        raise FedMergeError(f"'{source}' has no images to try: give another source with --samples.")
    rng = numpy_generator(0, "samples")
    chosen = balanced(strata(split.labels.numpy()), MOST, rng)
    return split.select(rng.permutation(chosen)).images


def inputs_at(found: Found, source: str | None) -> Normalisation | None:
    """Return the served hospital's own normalisation; None where its models have one for all hospitals.

    source: ``run``, the training images of the run's unseen hospital, or a source as in a cohort.
    """
    card, _ = found.models[0]
    if source == OF_RUN and not isinstance(card.normalisation, Normalisation):
        return card.normalisation.at(_site(found, "--normalise"))
    own = at_hospital(card, source).normalisation
    assert isinstance(own, Normalisation)
    return None if own == card.normalisation else own


def _site(found: Found, option: str) -> Site:
    if found.target is None or "cohort" not in found.config:
        raise FedMergeError(
            f"{option} run takes the folder of a run and one target: give --target, or a source of images."
        )
    spec = validate(CohortSpec, found.config["cohort"], "cohort")
    spec._folder = found.sources
    with no_downloads():
        return build_cohort(spec, 0)[found.target]
