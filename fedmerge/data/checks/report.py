"""Check a cohort's images before training: counts, and findings with numbers and a severity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedmerge.data.checks.checks import remarks
from fedmerge.data.checks.intensity import Statistics, auroc, statistics_of
from fedmerge.data.checks.lookalikes import look_alikes
from fedmerge.data.cohort.cohort import Cohort, Site
from fedmerge.data.images.stored import StoredImages

Severity = Literal["note", "warning", "error"]
EXIT: dict[Severity, int] = {"note": 0, "warning": 1, "error": 2}
"""Exit codes of a check by its worst finding."""
LEAKS = ("unseen ", "patients ", "train test", "train val", "val test")
"""Kinds of remarks on images or patients that are on both sides of a comparison."""
TELLS = 0.9
"""The AUROC above which a hospital can be told by one number of an image's intensities."""
GUESSES = 0.75
"""… above which a label can be guessed from its mean brightness."""
INVERTED = -0.3
"""The correlation of a hospital's mean image with the others' below which its polarity is doubtful."""
FEW = 10


@dataclass(frozen=True)
class Finding:
    """One finding: how bad, its kind in a word or two, and a sentence with the numbers."""

    severity: Severity
    kind: str
    text: str


@dataclass(frozen=True)
class Counted:
    """Counts of one hospital. classes: images by split and class. patients: None where they are not known."""

    name: str
    unseen: bool
    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    patients: int | None
    brightness: float


@dataclass(frozen=True)
class CohortCheck:
    """The result of a check. shape: channels, height, width.

    bytes: of all images, decoded; cached: those of them that are in the cache on disk and not in memory.
    """

    cohort: str
    shape: tuple[int, int, int]
    sites: tuple[Counted, ...]
    findings: tuple[Finding, ...]
    bytes: int
    cached: int = 0

    @property
    def exit_code(self) -> int:
        """0 for notes at most, 1 for warnings, 2 for errors."""
        return max((EXIT[finding.severity] for finding in self.findings), default=0)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        return asdict(self) | {"exit_code": self.exit_code}


def check_cohort(cohort: Cohort, refused: Sequence[str] = (), cannot_run: Sequence[str] = ()) -> CohortCheck:
    """Return counts and findings of a cohort whose images are here, the worst findings first.

    refused: sentences on files that could not be read; cannot_run: on why an experiment cannot run on the
    cohort. Beside ``checks.remarks``: images that look alike
    (with the extra ``checks``), hospitals that can be told by intensities, labels that can be guessed from
    brightness, doubtful polarity, and classes that a hospital lacks. 10,000 images of 64 px take seconds.
    """
    here = [site for site in cohort.sites if len(site.everything)]
    statistics = {site.name: statistics_of(site.everything.images) for site in here}
    found = [Finding("error", "refused file", text) for text in refused]
    found += [Finding("error", "experiment", text) for text in cannot_run]
    found += [
        Finding(_severity(cohort, kind), _plain(cohort, kind), text) for kind, text in remarks(cohort).items()
    ]
    found += [
        *_missing(here),
        *_told(statistics),
        *_guessed(here, statistics),
        *_polarity(cohort, statistics),
    ]
    found += [Finding("warning", "look-alikes", text) for text in look_alikes(here)]
    found.sort(key=lambda finding: -EXIT[finding.severity])
    images = [site.everything.images for site in here]
    size = sum(each.numel() for each in images)
    cached = sum(each.numel() for each in images if isinstance(each, StoredImages))
    counts = tuple(_counted(site, statistics[site.name]) for site in here)
    return CohortCheck(cohort.name, cohort.shape, counts, tuple(found), size, cached)


def _severity(cohort: Cohort, kind: str) -> Severity:
    if kind in cohort.reading:
        return "note"
    return "error" if kind.startswith(LEAKS) else "warning"


def _plain(cohort: Cohort, kind: str) -> str:
    return "reading" if kind in cohort.reading else kind


def _counted(site: Site, statistics: Statistics) -> Counted:
    splits = {name: getattr(site, name) for name in ("train", "val", "test")}
    groups = site.everything.groups
    return Counted(
        site.name,
        site.unseen,
        {name: len(split) for name, split in splits.items()},
        {
            name: dict(zip(site.class_names, split.class_counts(site.n_classes).tolist(), strict=True))
            for name, split in splits.items()
        },
        None if groups is None else len(np.unique(groups.numpy())),
        round(float(statistics.mean.mean()), 1),
    )


def _missing(sites: Sequence[Site]) -> Iterator[Finding]:
    for site in sites:
        counts = site.everything.class_counts(site.n_classes).tolist()
        lacking = [name for name, n in zip(site.class_names, counts, strict=True) if not n]
        if lacking and len(lacking) < site.n_classes - 1:
            which = ", ".join(lacking[:5])
            text = f"{site.name} has no image of {len(lacking)} of {site.n_classes} classes: {which}."
            yield Finding("warning", "missing class", text)


def _told(statistics: Mapping[str, Statistics]) -> Iterator[Finding]:
    """Hospitals that one number of an image tells from all others."""
    if len(statistics) < 2:
        return
    for name, own in statistics.items():
        others = [each for other, each in statistics.items() if other != name]
        best = {}
        for field in ("mean", "deviation", "dark"):
            mine, theirs = getattr(own, field), np.concatenate([getattr(each, field) for each in others])
            area = auroc(np.concatenate([mine, theirs]), np.arange(len(mine) + len(theirs)) < len(mine))
            best[field] = max(area, 1 - area)
        field = max(best, key=lambda each: best[each])
        if best[field] > TELLS:
            what = {"mean": "mean brightness", "deviation": "contrast", "dark": "share of black pixels"}[
                field
            ]
            yield Finding(
                "warning",
                "hospital told",
                f"the images of {name} can be told from those of the other hospitals by their {what} "
                f"alone (AUROC "
                f"{best[field]:.2f}): a network may learn the hospital in place of the disease.",
            )


def _guessed(sites: Sequence[Site], statistics: Mapping[str, Statistics]) -> Iterator[Finding]:
    """Labels that the mean brightness of an image gives away, by hospital."""
    for site in sites:
        labels, mean = site.everything.labels.numpy(), statistics[site.name].mean
        worst, name = 0.5, ""
        for label, each in enumerate(site.class_names):
            positive = labels[:, label] == 1 if labels.ndim == 2 else labels == label
            if min(positive.sum(), (~positive).sum()) < FEW:
                continue
            area = auroc(mean, positive)
            if max(area, 1 - area) > worst:
                worst, name = max(area, 1 - area), each
        if worst > GUESSES:
            yield Finding(
                "warning",
                "label guessed",
                f"at {site.name} the mean brightness of an image alone tells '{name}' with an AUROC of "
                f"{worst:.2f}: "
                "part of any score may be brightness.",
            )


def _polarity(cohort: Cohort, statistics: Mapping[str, Statistics]) -> Iterator[Finding]:
    """Grey hospitals whose mean image is like a negative of the others'."""
    if cohort.shape[0] != 1 or len(statistics) < 3:
        return
    for name, own in statistics.items():
        others = np.mean([each.picture for other, each in statistics.items() if other != name], axis=0)
        if own.picture.std() < 1 or others.std() < 1:
            continue
        alike = float(np.corrcoef(own.picture.reshape(-1), others.reshape(-1))[0, 1])
        if alike < INVERTED:
            yield Finding(
                "warning",
                "polarity",
                f"the mean image of {name} is like a negative of the others' (correlation {alike:.2f}): "
                f"see whether "
                "its black and white are exchanged.",
            )
