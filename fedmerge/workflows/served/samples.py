"""Images to try a service with: of the run's unseen hospital, or of any source."""

from __future__ import annotations

from torch import Tensor

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.fusion import balanced
from fedmerge.data.images import Split
from fedmerge.data.medmnist import no_downloads
from fedmerge.data.sources import load_source
from fedmerge.errors import FedMergeError
from fedmerge.schema.validation import validate
from fedmerge.seeding import numpy_generator
from fedmerge.tasks.label_sets import strata
from fedmerge.workflows.served.places import Found

MOST = 32
OF_RUN = "run"


def samples(found: Found, source: str) -> Tensor:
    """Return images to try, uint8 N x C x H x W, class-balanced, the same ones each time.

    source: ``run``, the images that arrived at the run's unseen hospital, or a source as in a cohort, whose
    test images are taken. Raises FedMergeError where they are not on this machine.
    """
    split = _of_run(found) if source == OF_RUN else load_source(source).test
    if not len(split):
        raise FedMergeError(f"'{source}' has no images to try: give another source with --samples.")
    rng = numpy_generator(0, "samples")
    chosen = balanced(strata(split.labels.numpy()), MOST, rng)
    return split.select(rng.permutation(chosen)).images


def _of_run(found: Found) -> Split:
    if found.target is None or "cohort" not in found.config:
        raise FedMergeError(
            "--samples run takes the folder of a run and one target: give --target, or a source of images."
        )
    spec = validate(CohortSpec, found.config["cohort"], "cohort")
    spec._folder = found.sources
    with no_downloads():
        site = build_cohort(spec, 0)[found.target]
    return site.everything
