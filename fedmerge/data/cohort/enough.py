"""Check that a hospital has enough images to train, validate and test; advise what to do if not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedmerge.data.cohort.spec import CohortSpec, SiteSpec
from fedmerge.data.images.images import Split
from fedmerge.errors import FedMergeError
from fedmerge.tasks import TASKS

Splits = tuple[Split, Split, Split]


def check_enough(
    spec: CohortSpec, site: SiteSpec, splits: Splits, group: Sequence[Splits], n_classes: int
) -> None:
    """Raise FedMergeError for a site with too few images or classes, with advice that can be followed.

    splits: what the site keeps. group: what the sites of its source got of it, this one among them, before
    any ``limit``.
    """
    train, minimum = splits[0], spec.minimum
    where = f"cohort '{spec.name}', site '{site.name}'"
    advice = _advice(spec, site, group, n_classes)
    present, kind = len(train.present), "findings" if TASKS[spec.task].many else "classes"
    if len(train) < minimum.samples:
        lower = [f"lower the cohort's minimum: {{samples: {len(train)}}}"] if len(train) else []
        limit = [f"raise its limit to at least {minimum.samples}"] if site.limit == len(train) else []
        raise FedMergeError(
            f"{where} gets {len(train)} training samples, fewer than minimum samples {minimum.samples}: "
            f"{' or '.join([*(limit or advice), *lower])}."
        )
    if present < minimum.classes:
        limit = ["raise its limit"] if site.limit == len(train) else []
        raise FedMergeError(
            f"{where} gets training samples of {present} {kind}, fewer than minimum classes "
            f"{minimum.classes}: "
            f"{' or '.join([*limit, *advice, f'lower the minimum: {{classes: {present}}}'])}."
        )
    for name, split in zip(("val", "test"), splits[1:], strict=True):
        if not len(split):
            raise FedMergeError(f"{where} gets no {name} samples: {' or '.join(advice)}.")


def _advice(spec: CohortSpec, site: SiteSpec, group: Sequence[Splits], n_classes: int) -> list[str]:
    """Return advice, each a way to give the site more images of its source."""
    alike = [each for each in spec.sites if spec.source_of(each) == spec.source_of(site)]
    if len(alike) == 1:
        return ["give its source more images, of every class"]
    if site.classes is not None:
        return ["list more classes for it"]
    skew = spec.label_skew if site.follows else site.label_skew
    if skew == "disjoint":
        return ["use fewer sites of its source"]
    if skew is not None:
        whose = "its label_skew" if site.label_skew is not None else "the cohort's label_skew"
        return [
            f"raise {whose}, which is {skew:g} (1 and more spread a class over sites)",
            "use another seed",
        ]
    if site.share < max(each.share for each in alike):
        return [f"raise its share above {site.share:g}"]
    most = _most_sites(spec, group, n_classes)
    fewer = f"use at most {most} of the {len(alike)} sites" if 0 < most < len(alike) else "use fewer sites"
    return [f"{fewer} of its source", "give the source more images"]


def _most_sites(spec: CohortSpec, group: Sequence[Splits], n_classes: int) -> int:
    """Return how many sites of equal share a source suffices for, each with floor(images / sites) a class."""
    train, val, test = (
        torch.stack([part[i].class_counts(n_classes) for part in group]).sum(dim=0) for i in range(3)
    )

    def feeds(sites: int) -> bool:
        each = [counts // sites for counts in (train, val, test)]
        enough = int(each[0].sum()) >= spec.minimum.samples
        classes = int((each[0] > 0).sum()) >= spec.minimum.classes
        return enough and classes and all(int(counts.sum()) > 0 for counts in each[1:])

    return max((sites for sites in range(1, len(group)) if feeds(sites)), default=0)
