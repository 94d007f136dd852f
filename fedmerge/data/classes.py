"""Which site takes images of which class, where several sites divide one source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmerge.data.images import Split
from fedmerge.data.spec import CohortSpec, SiteSpec
from fedmerge.errors import FedMergeError, nearest
from fedmerge.seeding import numpy_generator

Names = tuple[str, ...]


def who_takes(
    spec: CohortSpec, splits: Sequence[Split], members: Sequence[SiteSpec], names: Names, seed: int, text: str
) -> np.ndarray:
    """Which of ``members``, the sites of source ``text``, takes images of which class: bool, sites x classes.

    Sites that list classes take those; what nobody lists goes to the sites without a list. Where the
    cohort's label skew is ``disjoint``, each site that follows it takes its group of classes, and sites with
    neither group nor list take part in every class. Raises FedMergeError for an unknown class, for more
    sites than classes to divide, and where a class has images that nobody takes.
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
        takes[:, label] = True  # there is nothing to take
    return takes


def _disjoint(
    spec: CohortSpec, members: Sequence[SiteSpec], names: Names, seed: int, text: str
) -> dict[str, list[int]]:
    """By site, its group of classes: the classes in random order, cut into parts as equal as can be."""
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


def _label_of(given: str | int, names: Names, site: str) -> int:
    if isinstance(given, str) and given in names:
        return names.index(given)
    if isinstance(given, int) and given < len(names):
        return given
    raise FedMergeError(
        f"site '{site}': there is no class {given!r}.{nearest(str(given), names)} Allowed under classes: the "
        f"names {', '.join(names)}, or the labels 0 to {len(names) - 1}."
    )
