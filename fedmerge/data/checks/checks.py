"""Remarks, with numbers, on a cohort's images: data that teach nothing, and data that leak into the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from fedmerge.data.cohort.cohort import Cohort, Site
from fedmerge.data.images.facts import Facts, facts_of

DARK = 31
"""The highest value up to which a hospital's images are taken to have been stored with fewer bits."""
MOST = 5
"""Hospitals or classes that a remark names."""
Digests = Mapping[str, frozenset[bytes]]


def remarks(cohort: Cohort) -> dict[str, str]:
    """Return remarks on a cohort's images, sentences by kind; empty where all is well.

    About: files left out; images of one value, of the values 0 and 1, or stored with fewer bits; hospitals
    with one class; classes without a training image; the same image at several hospitals, at an unseen one
    and at one that trains, in several splits of a hospital, or with several labels; patients in several
    splits. Copies have equal pixels, in the size of the cohort and before the scanner; images of one value
    do not count. The images of remote hospitals are not looked at. 10,000 images take about 0.1 s.
    """
    here = {site.name: site for site in cohort.sites if len(_labels(site))}
    facts = {name: site.facts or facts_of(site.everything.images) for name, site in here.items()}
    found = {text: text for text in cohort.reading}
    found |= dict(_values(facts))
    found |= dict(_classes(cohort, here))
    found |= dict(_copies(here, facts))
    found |= dict(_twice_in_a_site(here, facts))
    found |= dict(_patients_across(here))
    return found


def together(said: dict[str, str], new: dict[str, str], where: str) -> dict[str, str]:
    """Add to ``said`` the remarks of a further seed whose kind is new, each after ``where`` it holds."""
    begin = f"{where}: " if where else ""
    return said | {kind: f"{begin}{text}" for kind, text in new.items() if kind not in said}


def _values(facts: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    flat = {name: int(each.flat.sum()) for name, each in facts.items()}
    total = {name: len(each.digests) for name, each in facts.items()}
    if any(flat.values()):
        yield "flat", f"images of one value in every pixel, which cannot teach: {_of(flat, total)}."
    dim = {name: int(((each.highest == 1) & ~each.flat).sum()) for name, each in facts.items()}
    if any(dim.values()):
        yield (
            "dim",
            (
                f"images of the values 0 and 1, of 255: {_of(dim, total)}. If they were scaled to 0 to 1, "
                "multiply them by 255."
            ),
        )
    peak = {name: int(each.highest.max()) for name, each in facts.items()}
    dark = {name: top for name, top in peak.items() if 1 < top <= DARK}
    if dark:
        yield (
            "dark",
            (
                f"hospitals whose images have no value above {max(dark.values())}, of 255: {_named(dark)}. "
                "If they were stored with fewer bits, scale them to 0 to 255."
            ),
        )


def _classes(cohort: Cohort, here: Mapping[str, Site]) -> Iterator[tuple[str, str]]:
    single = {}
    counts = np.zeros(cohort.n_classes, dtype=np.int64)
    for name, site in here.items():
        labels = _labels(site) if site.unseen else site.train.labels
        present = torch.unique(labels, dim=0)
        if len(present) == 1:
            single[name] = f"{_said(cohort, present[0])}, {len(labels)} images"
        if not site.unseen:
            counts += site.train.class_counts(cohort.n_classes).numpy()
    if single:
        listed = [f"{name} ({what})" for name, what in single.items()]
        yield "single", f"hospitals with images of one class alone: {_some(listed)}."
    if not counts.all() and not any(site.remote for site in cohort.training):
        names = [f"'{cohort.class_names[label]}'" for label in np.flatnonzero(counts == 0)]
        alone = len(cohort.training) == 1  # a hospital that looks at its own images
        what = "without a training image" if alone else "that no hospital has a training image of"
        yield "untaught", f"classes {what}: {len(names)} ({_some(names)})."


def _said(cohort: Cohort, label: torch.Tensor) -> str:
    """Return a label in words."""
    if label.ndim == 0:
        return f"'{cohort.class_names[int(label)]}'"
    found = [cohort.class_names[f] for f in label.nonzero().flatten().tolist()]
    return f"'{', '.join(found)}'" if found else "no finding"


def _copies(here: Mapping[str, Site], facts: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    """The same image at several hospitals, or with several labels."""
    owners: dict[bytes, list[str]] = {}
    labels: dict[bytes, set[object]] = {}
    for name, site in here.items():
        for digest, label, flat in zip(
            facts[name].digests, _labels(site).tolist(), facts[name].flat, strict=True
        ):
            if not flat:
                labels.setdefault(digest, set()).add(tuple(label) if isinstance(label, list) else label)
                if name not in (at := owners.setdefault(digest, [])):
                    at.append(name)
    shared = {digest: at for digest, at in owners.items() if len(at) > 1}
    training = [[name for name in at if not here[name].unseen] for at in shared.values()]
    pairs = Counter(f"{at[0]} and {other}" for at in training for other in at[1:])
    if pairs:
        n = sum(len(at) > 1 for at in training)
        yield "across", f"images that stand at several hospitals that train: {n} ({_counted(pairs)})."
    for name in (name for name, site in here.items() if site.unseen):
        sources = {digest: [other for other in at if not here[other].unseen] for digest, at in shared.items()}
        known = [sources[d] for d in facts[name].digests if name in owners.get(d, ()) and sources.get(d)]
        if known:
            whose = Counter(at[0] for at in known)
            yield (
                f"unseen {name}",
                (
                    f"images of the unseen {name} that a hospital which trains has too: {len(known)} of "
                    f"{len(facts[name].digests)} ({_counted(whose)}): for these, its scores are not "
                    "those of new images."
                ),
            )
    double = sum(len(each) > 1 for each in labels.values())
    if double:
        yield "labels", f"images that stand in the cohort with several labels: {double}."


def _twice_in_a_site(here: Mapping[str, Site], facts: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    """The same image, or patient, in several splits of a hospital."""
    for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
        images, patients = {}, {}
        for name, site in here.items():
            parts = _by_split(site, facts[name])
            if n := sum(n for digest, n in parts[second].items() if digest in parts[first]):
                images[name] = n
            groups = [getattr(site, split).groups for split in (first, second)]
            if all(each is not None for each in groups) and (n := len(np.intersect1d(*groups))):
                patients[name] = n
        if images:
            yield (
                f"{first} {second}",
                (
                    f"{second} images that are {first} images of the same hospital too: "
                    f"{sum(images.values())} ({_named(images)})."
                ),
            )
        if patients:
            yield (
                f"patients {first} {second}",
                (
                    f"patients with images in both {first} and {second} of one hospital: "
                    f"{sum(patients.values())} ({_named(patients)})."
                ),
            )


def _patients_across(here: Mapping[str, Site]) -> Iterator[tuple[str, str]]:
    """Patients of an unseen hospital whom a hospital that trains has, too, as one source names them."""
    for name, site in here.items():
        own = site.everything.groups
        if not site.unseen or own is None or not site.registry:
            continue
        shared = {}
        for other, held in here.items():
            theirs = held.everything.groups
            if not held.unseen and held.registry == site.registry and theirs is not None:
                shared[other] = len(np.intersect1d(own, theirs))
        if any(shared.values()):
            counts = {other: n for other, n in shared.items() if n}
            yield (
                f"patients {name}",
                (
                    f"patients of the unseen {name} of whom a hospital that trains has images: "
                    f"{sum(counts.values())} ({_named(counts)}): for these, its scores are not those of new "
                    "patients."
                ),
            )


def _labels(site: Site) -> torch.Tensor:
    return torch.cat([split.labels for split in (site.train, site.val, site.test)])


def _by_split(site: Site, facts: Facts) -> dict[str, Counter[bytes]]:
    digests = [None if flat else digest for digest, flat in zip(facts.digests, facts.flat, strict=True)]
    parts, start = {}, 0
    for split in ("train", "val", "test"):
        end = start + len(getattr(site, split))
        parts[split] = Counter(digest for digest in digests[start:end] if digest is not None)
        start = end
    return parts


def _of(counts: Mapping[str, int], total: Mapping[str, int]) -> str:
    return _some([f"{name} {n} of {total[name]}" for name, n in counts.items() if n])


def _named(counts: Mapping[str, int]) -> str:
    return _some([f"{name} {n}" for name, n in counts.items()])


def _counted(counts: Counter[str]) -> str:
    return _some([f"{name} {n}" for name, n in counts.most_common()])


def _some(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return ", ".join(parts[:MOST]) + more
