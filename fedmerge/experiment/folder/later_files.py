"""The files of images that a run reads after its beginning: they must stay what they were."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from fedmerge.data import CohortSpec
from fedmerge.data.cohort.content import cohort_content, public_content
from fedmerge.data.sources.sources import Arrays
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import Experiment


def later_files(experiment: Experiment, spec: CohortSpec) -> dict[str, str]:
    """Return a digest of the files, by what they are.

    Those of the cohort, with several seeds, because each has its own division of the images, read when its
    turn comes; and the server's public images, read at each fusion.
    """
    found: dict[str, str] = {}
    if len(experiment.seeds) > 1 and not in_memory(spec):
        found["the cohort's images"] = cohort_content(spec)
    if public := public_content(experiment.fusion_data, spec.folder):
        found["the public images for fusion"] = public
    return found


def same_files(folder: Path, begun: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise FedMergeError where files have changed since the run in ``folder`` was begun."""
    for what, kept in begun.items():
        if here.get(what) != kept:
            raise FedMergeError(
                f"the files of {what} are not those that the run in '{folder}' was begun with: put them back "
                f"and go on with fedmerge run --resume {shlex.quote(str(folder))}, or begin a new run."
            )


def in_memory(spec: CohortSpec) -> bool:
    """Whether images of a cohort are arrays, which no configuration brings back."""
    return any(isinstance(spec.source_of(site), Arrays) for site in spec.sites)
