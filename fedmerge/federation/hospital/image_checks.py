"""The checks of a hospital's images that it tells before training, with small counts suppressed.

What the check of a cohort compares between hospitals is told as numbers of one hospital, for the server to
compare: hashes or mean images would tell more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedmerge.data import Site
from fedmerge.data.checks.intensity import Statistics, auroc, correlations, statistics_of
from fedmerge.data.checks.lookalikes import near_copies
from fedmerge.data.sources.listing import KINDS_LEFT_OUT
from fedmerge.federation.messages.fields import ClassName, Share, ToldCount
from fedmerge.federation.policy.suppression import told, told_alone

NEGATIVE = -0.5
"""The correlation with the hospital's mean image below which an image is like a negative of it."""
OTHER = "other"
MOST_KINDS = 20
"""Sizes and kinds of files that are told by name."""
SizeName = Annotated[str, Field(pattern=r"^([1-9]\d{0,5}x[1-9]\d{0,5}|other)$")]
Kind = Annotated[str, Field(pattern=r"^[a-z0-9. ]{1,30}$")]
Levels = Annotated[int, Field(strict=True, ge=-255, le=255)]


class ImageChecks(BaseModel):
    """What a hospital's checks found; None for what it cannot say or has too few images for.

    near_duplicates: images that look like an earlier one though their pixels differ, of at most 5,000 that
    are evenly spread; it needs the extra ``checks``. negatives: grey images that are like a negative of the
    hospital's mean image. middle: by how many levels of 255 the middle of the mean image, half as wide, is
    brighter than the rest, a whole number: its sign differs where black and white are exchanged. brightness:
    by class, the AUROC of an image's mean brightness alone, to two digits; only where each class is in at
    least ``minimum`` images and missing from as many. sizes: images by WIDTHxHEIGHT as stored. left_out:
    files that were not read, by kind. In both, what is rarer than the minimum is ``other``, and so is a
    suffix that is not well known, which may be a name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    near_duplicates: ToldCount | None = None
    negatives: ToldCount | None = None
    middle: Levels | None = None
    brightness: dict[ClassName, Share] | None = Field(default=None, max_length=10_000)
    sizes: dict[SizeName, ToldCount] | None = Field(default=None, max_length=MOST_KINDS + 1)
    left_out: dict[Kind, ToldCount] | None = Field(default=None, max_length=MOST_KINDS + 1)


def check_images(site: Site, least: int) -> ImageChecks:
    """Check a hospital's images; suppress whatever is about fewer than ``least`` of them."""
    images = site.everything.images
    if not len(images):
        return ImageChecks()
    found, near, files = statistics_of(images), near_copies(site), site.files
    structured = images.shape[1] == 1 and found.picture.std() >= 1
    negatives = int((correlations(images, found.picture) < NEGATIVE).sum()) if structured else 0
    sizes = None if files is None else {f"{w}x{h}": n for (w, h), n in files.sizes.items()}
    return ImageChecks(
        near_duplicates=None if near is None else told_alone(near, least),
        negatives=told_alone(negatives, least) if structured else None,
        middle=_middle(found) if images.shape[1] == 1 and len(images) >= least else None,
        brightness=_brightness(site, found, least),
        sizes=None if sizes is None else _by_name(sizes, least, sizes),
        left_out=None if files is None else _by_name(files.left_out, least, KINDS_LEFT_OUT),
    )


def _middle(found: Statistics) -> int:
    side = len(found.picture) // 4
    middle = np.zeros(found.picture.shape, dtype=bool)
    middle[side:-side, side:-side] = True
    return round(float(found.picture[middle].mean() - found.picture[~middle].mean()))


def _brightness(site: Site, found: Statistics, least: int) -> dict[str, float] | None:
    """Return by class how well mean brightness alone tells it; None where one, or its rest, is too small."""
    labels = site.everything.labels.numpy()
    classes = [labels[:, i] == 1 if labels.ndim == 2 else labels == i for i in range(site.n_classes)]
    if any(min(each.sum(), (~each).sum()) < max(least, 1) for each in classes):
        return None
    areas = (round(auroc(found.mean, each), 2) for each in classes)
    return dict(zip(site.class_names, areas, strict=True))


def _by_name(counts: Mapping[str, int], least: int, known: Iterable[str]) -> dict[str, int | str]:
    """Return suppressed counts by name, the largest first; the rare, and names not known, as ``other``."""
    allowed = {name for name in known if counts.get(name, 0) >= least}
    ranked = sorted(allowed, key=lambda name: (-counts[name], name))[:MOST_KINDS]
    rest = sum(counts.values()) - sum(counts[name] for name in ranked)
    names = [*ranked, *([OTHER] if rest else [])]
    return dict(
        zip(names, told([*(counts[name] for name in ranked), *([rest] if rest else [])], least), strict=True)
    )
