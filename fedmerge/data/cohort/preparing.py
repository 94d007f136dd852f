"""Prepare one hospital's images: as many, and as large, as the cohort says, as its scanner shows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from fedmerge.data.cache.derived import derived, in_pieces
from fedmerge.data.cohort.cohort import Splits
from fedmerge.data.cohort.spec import CohortSpec, SiteSpec
from fedmerge.data.files.fit import fitted
from fedmerge.data.images.facts import Facts, facts_of
from fedmerge.data.images.images import concat, to_channels
from fedmerge.data.images.stored import StoredImages
from fedmerge.data.reading import Fit
from fedmerge.data.shown import shown
from fedmerge.seeding import numpy_generator


def limited(site: SiteSpec, splits: Splits, seed: int) -> Splits:
    """Draw as many training images as the site may have."""
    train, val, test = splits
    if site.limit is not None and len(train) > site.limit:
        rng = numpy_generator(seed, "limit", site=site.name)
        train = train.select(np.sort(rng.choice(len(train), site.limit, replace=False)))
    return train, val, test


def prepared(spec: CohortSpec, site: SiteSpec, splits: Splits, seed: int) -> tuple[Splits, Facts]:
    """Resize one site's images, and show them through its scanner; return them with their facts before it.

    What comes from the disk cache goes there again, with the same bits as in memory.
    """
    lengths = [len(split) for split in splits]
    whole = concat(splits)  # shifted as one, so that a scanner's traits hold for all splits
    images = _brought_to(whole.images, spec.channels, spec.size, spec.reading_of(site).read.fit, site.name)
    facts = images.facts() if isinstance(images, StoredImages) else facts_of(images)
    images = shown(images, site.scanner, seed, site.name)
    pieces = zip(splits, images.split(lengths), strict=True)
    train, val, test = (replace(split, images=piece.contiguous()) for split, piece in pieces)
    return (train, val, test), facts


def _brought_to(images: Tensor, channels: int | None, size: int | None, fit: Fit | None, name: str) -> Tensor:
    def change(piece: Tensor) -> Tensor:
        return fitted(to_channels(piece, channels) if channels else piece, size, fit)

    if not isinstance(images, StoredImages):
        return change(images)
    found, height, width = images.shape[1:]
    square = height == width
    fits = square or (size is None and fit in (None, "stretch"))
    if fits and channels in (None, found) and size in (None, height):
        return images
    how = f"channels {channels} size {size} fit {fit}"
    return derived(images, how, lambda: in_pieces(images, change), name)
