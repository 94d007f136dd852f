"""The classes of a cohort, and which site takes images of which, where several sites divide one source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmerge.data.cohort.spec import CohortSpec, SiteSpec
from fedmerge.data.images.images import Split
from fedmerge.data.sources.raw import RawSource
from fedmerge.data.sources.sources import REMOTE
from fedmerge.errors import FedMergeError, nearest
from fedmerge.seeding import numpy_generator
from fedmerge.tasks import TASKS

Names = tuple[str, ...]
MOST_NAMED = 5


def class_names(spec: CohortSpec, owner: dict[str, RawSource]) -> tuple[str, ...]:
    """Return the class names that hold for all sources; ``owner`` holds each source under its first site.

    Raises FedMergeError where sources differ in their classes, and as ``check_taught`` does.
    """
    if spec.classes:
        return spec.classes
    if not owner:
        raise FedMergeError(
            f"cohort '{spec.name}': no site's images are here to see which classes there are: set classes:."
        )
    (first, reference), *others = owner.items()
    for name, raw in others:
        if raw.n_classes != reference.n_classes:
            raise FedMergeError(
                f"cohort '{spec.name}': site '{first}' has {reference.n_classes} classes and site '{name}' "
                f"has {raw.n_classes}: set classes: to the names of all classes."
            )
        if reference.class_names is None:
            first, reference = name, raw
        elif raw.class_names not in (None, reference.class_names):
            raise FedMergeError(
                f"cohort '{spec.name}': the classes of site '{first}' are {', '.join(reference.class_names)} "
                f"and those of site '{name}' {', '.join(raw.class_names or ())}: set classes: to the names "
                f"they share."
            )
    if reference.class_names is None:
        remote = any(spec.source_of(site) == REMOTE for site in spec.sites)
        splits = [split for raw in owner.values() for split in (raw.splits if remote else raw.splits[:1])]
        taught = np.unique(np.concatenate([s.present for s in splits]))
        check_taught(spec, range(reference.n_classes), taught)
    return reference.class_names or tuple(str(label) for label in range(reference.n_classes))


def check_task(spec: CohortSpec, owner: dict[str, RawSource]) -> None:
    """Raise FedMergeError where the labels of a source do not have the form of the cohort's task."""
    many, named = TASKS[spec.task].many, f"the cohort's task is {spec.task}"
    for name, raw in owner.items():
        where = f"cohort '{spec.name}': the source '{raw.text}' of site '{name}' has"
        if raw.many and not many:
            raise FedMergeError(
                f"{where} {raw.n_classes} findings an image, but {named}: set task: multilabel; or, if each "
                "row has a single 1, give the position of it as the class."
            )
        if many and not raw.many:
            raise FedMergeError(
                f"{where} one class an image, but {named}: set task: to multiclass, ordinal or binary."
            )
        if spec.task == "binary" and raw.n_classes > 2:
            raise FedMergeError(
                f"{where} {raw.n_classes} classes, but {named}, which has two: set task: multiclass."
            )


def who_takes(
    spec: CohortSpec, splits: Sequence[Split], members: Sequence[SiteSpec], names: Names, seed: int, text: str
) -> np.ndarray:
    """Return which of ``members``, sites of source ``text``, takes which class: bool, sites x classes.

    Sites that list classes take those; classes that no site lists go to the sites without a list. Where the
    cohort's label skew is ``disjoint``, each site that follows it takes its group of classes, and sites with
    neither group nor list take part in every class. Raises FedMergeError for an unknown class, for more
    sites than classes to divide, and where a class has images that no site takes.
    """
    groups = _disjoint(spec, members, names, seed, text) if spec.label_skew == "disjoint" else {}
    listed = np.zeros((len(members), len(names)), dtype=bool)
    for row, site in zip(listed, members, strict=True):
        row[[_label_of(given, names, site.name) for given in site.classes or ()]] = True
    rest = np.array([site.classes is None and site.name not in groups for site in members])
    takes = np.where(listed.any(axis=0), listed, rest[:, None])
    for row, site in zip(takes, members, strict=True):
        row[groups.get(site.name, [])] = True
    if groups:
        takes[rest] = True
    for label in np.flatnonzero(~takes.any(axis=0)).tolist():
        held = sum(int(split.class_counts(len(names))[label]) for split in splits)
        if held:
            raise FedMergeError(
                f"no site takes the {held} images of class '{names[label]}' of source '{text}': add it to "
                f"the classes of one of {', '.join(site.name for site in members)}, or leave one of them "
                "without classes."
            )
        takes[:, label] = True  # the class has no images
    return takes


def _disjoint(
    spec: CohortSpec, members: Sequence[SiteSpec], names: Names, seed: int, text: str
) -> dict[str, list[int]]:
    """Return each site's group of classes: the classes in random order, cut as equally as possible."""
    sites = [site.name for site in members if site.follows]
    if len(sites) > len(names):
        raise FedMergeError(
            f"cohort '{spec.name}': label_skew: disjoint gives each site classes of its own, but "
            f"{len(sites)} sites of source '{text}' have {len(names)} classes to divide: use at most "
            f"{len(names)} of them."
        )
    order = numpy_generator(seed, "disjoint", site=text).permutation(len(names))
    parts = np.array_split(order, len(sites)) if sites else []
    return {site: part.tolist() for site, part in zip(sites, parts, strict=True)}


def check_taught(spec: CohortSpec, names: Sequence[object], taught: np.ndarray) -> None:
    """Raise FedMergeError where a class has no training image, unless the cohort names its classes itself.

    names: of all classes, or their labels. taught: the labels of which a hospital has training images.
    """
    if spec.classes or len(taught) == len(names):
        return
    missing = [label for label in range(min(len(names), len(taught) + MOST_NAMED + 1)) if label not in taught]
    shown = ", ".join(str(names[label]) for label in missing[:MOST_NAMED])
    n = len(names) - len(taught)
    more = f" and {n - MOST_NAMED:,} more" if n > MOST_NAMED else ""
    raise FedMergeError(
        f"cohort '{spec.name}': no hospital that trains has a training image of {n:,} of the {len(names):,} "
        f"classes ({shown}{more}): number the classes from 0 without a gap, give a hospital images of them, "
        "or set classes: to the names of all classes to go on without."
    )


def _label_of(given: str | int, names: Names, site: str) -> int:
    if isinstance(given, str) and given in names:
        return names.index(given)
    if isinstance(given, int) and given < len(names):
        return given
    raise FedMergeError(
        f"site '{site}': there is no class {given!r}.{nearest(str(given), names)} Allowed under classes: the "
        f"names {', '.join(names)}, or the labels 0 to {len(names) - 1}."
    )
