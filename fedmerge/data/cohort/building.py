"""Build a cohort: load sources, divide them over hospitals, prepare each one's images, check the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmerge.data.cohort.classes import check_task, check_taught, class_names, who_takes
from fedmerge.data.cohort.cohort import Cohort, Names, Site, Splits
from fedmerge.data.cohort.enough import check_enough
from fedmerge.data.cohort.preparing import limited, prepared
from fedmerge.data.cohort.spec import CohortSpec, SiteSpec
from fedmerge.data.images.images import Split
from fedmerge.data.partition import draw_proportions
from fedmerge.data.sources.labels import relabel, renamed
from fedmerge.data.sources.patients import divide_whole
from fedmerge.data.sources.raw import RawSource
from fedmerge.data.sources.sources import REMOTE, load_source, medmnist_set, source_key
from fedmerge.errors import Faults, FedMergeError
from fedmerge.seeding import numpy_generator
from fedmerge.tasks import TASKS
from fedmerge.tasks.label_sets import strata


def build_cohort(spec: CohortSpec, seed: int) -> Cohort:
    """Load, divide, limit, resize and shift the images of every site, and check the result.

    Sites with the same source divide it; all three splits of a site share its class proportions. The same
    (spec, seed) give the same bits. A remote site has no images here. Raises ``FedMergeError`` for whatever
    ``load_source`` refuses, sites that differ in classes or in image shape, a class of a source that no site
    takes, a class that nothing is trained on unless ``classes`` names it, and a site with too few training
    samples or classes, or an empty split.
    """
    groups: dict[object, list[SiteSpec]] = {}
    raws: dict[object, RawSource] = {}
    faults = Faults()
    for site in spec.sites:
        if spec.source_of(site) == REMOTE:
            continue
        with faults.kept():
            labels = tuple(sorted((site.labels or {}).items()))
            source = source_key(spec.source_of(site), spec.folder, spec.size)
            groups.setdefault((source, spec.reading_of(site).key, labels), []).append(site)
    _check_one_size(spec, [members[0] for members in groups.values()])
    allow = spec.left_out == "allow"
    for key, members in groups.items():
        source = spec.source_of(members[0])
        how, first = spec.reading_of(members[0]), members[0]
        with faults.kept():
            raw = load_source(source, spec.folder, spec.size, spec.channels, allow, how)
            raws[key] = renamed(raw, first.labels, first.name)
    faults.say()
    owner = {members[0].name: raws[key] for key, members in groups.items()}
    check_task(spec, owner)
    names = class_names(spec, owner)
    parts: dict[str, Splits] = {}
    taught = np.zeros(len(names), dtype=bool)
    for key, members in groups.items():
        splits = relabel(raws[key], names, f"site '{members[0].name}'")
        takes = who_takes(spec, splits, members, names, seed, raws[key].text)
        training = takes[[not site.unseen for site in members]].any(axis=0)
        taught |= training & (splits[0].class_counts(len(names)).numpy() > 0)
        parts.update(_share_out(spec, splits, members, takes, seed, raws[key].text))
    if not any(spec.source_of(site) == REMOTE and not site.unseen for site in spec.sites):
        check_taught(spec, names, np.flatnonzero(taught))
    _check_shapes(spec, owner)
    nothing = _nothing(spec, owner, len(names))
    shared = {
        site.name: [parts[each.name] for each in members] for members in groups.values() for site in members
    }
    alone = {members[0].name: raws[key].files for key, members in groups.items() if len(members) == 1}
    sites: list[Site] = []
    for site in spec.sites:
        if site.name not in parts:
            task = TASKS[spec.task]
            sites.append(Site(site.name, REMOTE, nothing, nothing, nothing, names, site.unseen, task=task))
            continue
        with faults.kept():
            kept = limited(site, parts[site.name], seed)
            check_enough(spec, site, kept, shared[site.name], len(names))
            made = _site(spec, site, kept, names, seed)
            sites.append(replace(made, files=alone.get(site.name)))
    faults.say()
    reading = tuple(remark for raw in raws.values() for remark in (*raw.remarks, *_stretched(spec, raw)))
    return Cohort(spec.name, spec.title or spec.name, tuple(sites), spec.folder, reading)


def _check_one_size(spec: CohortSpec, firsts: Sequence[SiteSpec]) -> None:
    """Refuse one MedMNIST set in two sizes: its images would be known at one site and new at another."""
    seen: dict[str, SiteSpec] = {}
    for site in firsts:
        name = medmnist_set(spec.source_of(site))
        if name and (other := seen.setdefault(name, site)) is not site:
            raise FedMergeError(
                f"cohort '{spec.name}': sites '{other.name}' and '{site.name}' have the same images of "
                f"{name} in two sizes, so they cannot divide them: give both one source."
            )


def _nothing(spec: CohortSpec, owner: dict[str, RawSource], classes: int) -> Split:
    """Return an empty split whose images have the cohort's shape."""
    some = next(iter(owner.values()), None)
    channels = spec.channels or (some.shape[0] if some else None)
    height, width = (spec.size, spec.size) if spec.size else (some.shape[1:] if some else (None, None))
    if channels is None or height is None or width is None:
        raise FedMergeError(
            f"cohort '{spec.name}': no site's images are here to see what they are like: set size:, "
            "channels: and classes:."
        )
    images = torch.empty(0, channels, height, width, dtype=torch.uint8)
    if TASKS[spec.task].many:
        return Split(images, torch.empty(0, classes, dtype=torch.uint8))
    return Split(images, torch.empty(0, dtype=torch.int64))


def _share_out(
    spec: CohortSpec, splits: Splits, members: Sequence[SiteSpec], takes: np.ndarray, seed: int, text: str
) -> dict[str, Splits]:
    """Divide one source over its sites, each split in the same proportions. takes: ``who_takes``.

    Where an image has several labels, its label set is divided as a class is (``tasks.label_sets``). A
    patient's images in a split go to one site.
    """
    if len(members) == 1:
        return {members[0].name: splits}
    rng = numpy_generator(seed, "partition", site=text)
    shares = [site.share for site in members]
    default = None if spec.label_skew == "disjoint" else spec.label_skew
    skews = [default if site.follows else site.label_skew for site in members]
    codes = strata(np.concatenate([split.labels.numpy() for split in splits]))
    if splits[0].labels.ndim == 2:
        takes = np.ones((len(members), int(codes.max(initial=0)) + 1), dtype=bool)
    proportions = draw_proportions(takes.shape[1], shares, skews, rng, takes)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    pieces = np.split(codes, ends)
    indices = [
        divide_whole(split, part, proportions, rng) for split, part in zip(splits, pieces, strict=True)
    ]
    return {
        site.name: (
            splits[0].select(indices[0][i]),
            splits[1].select(indices[1][i]),
            splits[2].select(indices[2][i]),
        )
        for i, site in enumerate(members)
    }


def _check_shapes(spec: CohortSpec, owner: dict[str, RawSource]) -> None:
    """Refuse sources whose images will not have one shape."""
    if not owner:
        return
    (first, reference), *others = owner.items()
    for name, raw in others:
        if spec.channels is None and raw.shape[0] != reference.shape[0]:
            kinds = ("grey" if c == 1 else "RGB" for c in (reference.shape[0], raw.shape[0]))
            raise FedMergeError(
                f"cohort '{spec.name}': the images of site '{first}' are {next(kinds)} and those of site "
                f"'{name}' {next(kinds)}: set channels: 1 or 3."
            )
        if spec.size is None and raw.shape[1:] != reference.shape[1:]:
            sizes = [f"{w} x {h} px" for _, h, w in (reference.shape, raw.shape)]
            raise FedMergeError(
                f"cohort '{spec.name}': the images of site '{first}' are {sizes[0]} and those of site "
                f"'{name}' {sizes[1]}: set size: to resize all."
            )


def _site(spec: CohortSpec, site: SiteSpec, splits: Splits, names: Names, seed: int) -> Site:
    ready, facts = prepared(spec, site, splits, seed)
    registry = registry_of(spec, site) if all(split.groups is not None for split in splits) else ""
    source, task = str(spec.source_of(site)), TASKS[spec.task]
    return Site(site.name, source, *ready, names, site.unseen, site.scanner, facts, task, registry)


def registry_of(spec: CohortSpec, site: SiteSpec) -> str:
    """Return what numbers a site's patients: its source, however written, whichever rows it takes."""
    return str(source_key(spec.source_of(site), spec.folder, spec.size))


def _stretched(spec: CohortSpec, raw: RawSource) -> list[str]:
    """Say that images of one size that is not square are stretched."""
    _, height, width = raw.shape
    if spec.size is None or height == width or not len(raw.train) or (spec.read and spec.read.fit):
        return []
    return [
        f"{raw.text}: its images of {width} x {height} px were stretched to {spec.size} x {spec.size}: "
        f"set read: "
        "{fit: crop} or {fit: pad} in the cohort to keep their aspect ratio, or {fit: stretch} if it is "
        "meant."
    ]
