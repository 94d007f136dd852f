"""The inspection of a hospital's images before training: what the hospital tells, and what it suppresses.

A count below a minimum is not told, nor what would give it away (``policy.suppression``).
The minimum is the greater of the server's and the hospital's own. Images are compared only within a hospital:
hashes of them would tell others who has the same patient.
"""

from __future__ import annotations

import json

import numpy as np
from flwr.app import Message
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fedmerge.data import Site
from fedmerge.data.images.facts import Facts, facts_of
from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.image_checks import ImageChecks, check_images
from fedmerge.federation.messages.fields import ClassName as Name
from fedmerge.federation.messages.fields import Share
from fedmerge.federation.messages.fields import ToldCount as Count
from fedmerge.federation.messages.jobs import InspectJob
from fedmerge.federation.messages.reading import read_job, read_reply, read_tensors
from fedmerge.federation.messages.records import reply_message
from fedmerge.federation.messages.replies import Inspected
from fedmerge.federation.messages.tensors import NO_TENSORS
from fedmerge.federation.policy.suppression import told, told_alone, told_findings
from fedmerge.schema.validation import validate

ACTION = "query.inspect"
MINIMUM = 5
BINS = 16
"""Of the histogram of intensities."""


class Inspection(BaseModel):
    """A hospital's inspection. shape: channels, height, width. classes: images of all splits, by class, or
    with each finding.

    intensities: the share of all pixels in each bin of 0 to 255; None for a bin with pixels of fewer images
    than the minimum, and for one more if there is one such; empty if the hospital has too few images.
    duplicates: images that occur more than once, without their first copy. flat: images of one value. checks:
    None where they were not asked for or the hospital does not tell them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hospital: Name
    minimum: int = Field(ge=1, le=10**6)
    train: Count
    val: Count
    test: Count
    shape: tuple[int, int, int]
    classes: dict[Name, Count] = Field(max_length=10_000)
    intensities: list[Share | None] = Field(max_length=64)
    duplicates: Count
    flat: Count
    checks: ImageChecks | None = None

    @model_validator(mode="after")
    def _of_known_classes(self) -> Inspection:
        by_class = None if self.checks is None else self.checks.brightness
        if not set(by_class or ()) <= set(self.classes):
            raise ValueError("checks: brightness is told of a class that is not among the classes")
        return self


def inspect(site: Site, wish: InspectJob, own_minimum: int = MINIMUM, may_check: bool = True) -> Inspection:
    """Return the inspection of a hospital's images. may_check: whether the hospital tells its checks."""
    least = max(wish.minimum, own_minimum)
    images, facts = site.everything.images, site.facts or facts_of(site.everything.images)
    everything = site.everything
    counts = everything.class_counts(site.n_classes).tolist()
    said = told_findings(counts, len(everything), least) if site.task.many else told(counts, least)
    sizes = told([len(site.train), len(site.val), len(site.test)], least)
    return Inspection(
        hospital=site.name,
        minimum=least,
        train=sizes[0],
        val=sizes[1],
        test=sizes[2],
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        classes=dict(zip(site.class_names, said, strict=True)),
        intensities=_intensities(images, least),
        duplicates=told_alone(_copies(facts), least),
        flat=told_alone(int(facts.flat.sum()), least),
        checks=check_images(site, least) if wish.checks and may_check else None,
    )


def _intensities(images: Tensor, least: int) -> list[float | None]:
    """Return the share of pixels in each of ``BINS``; None for a bin of 1 to ``least`` - 1 images.

    All shares add up to 1, so one that is not told takes the next rarest with it. The bins are always the
    same, because the difference of two histograms would tell what each of them hides.
    """
    if len(images) < least:
        return []
    edges = np.arange(256) * BINS // 256
    pixels, owners = np.zeros(BINS, dtype=np.int64), np.zeros(BINS, dtype=np.int64)
    for image in (each for piece in images.split(256) for each in piece.numpy()):
        counts = np.bincount(image.reshape(-1), minlength=256)
        here = np.bincount(edges, weights=counts, minlength=BINS).astype(np.int64)
        pixels += here
        owners += here > 0
    order = [i for i in np.argsort(owners, kind="stable").tolist() if owners[i]]
    rare = {i for i in order if owners[i] < least}
    if len(rare) == 1:
        rare |= set(order[:2])
    total = max(int(pixels.sum()), 1)
    return [None if i in rare else round(float(n) / total, 4) for i, n in enumerate(pixels)]


def _copies(facts: Facts) -> int:
    """Return the number of repeated images, without first copies and images of one value."""
    real = [digest for digest, flat in zip(facts.digests, facts.flat, strict=True) if not flat]
    return len(real) - len(set(real))


def reply_with(message: Message, site: Site, own_minimum: int = MINIMUM, may_check: bool = True) -> Message:
    """Return a hospital's reply to ``query.inspect``. Raises FedMergeError for an invalid request."""
    wish = read_job(message, InspectJob)
    read_tensors(message, NO_TENSORS)
    found = inspect(site, wish, own_minimum, may_check)
    left_out = {"checks"} if found.checks is None else None  # a server that does not know them refuses them
    return reply_message(message, {}, texts={"json": found.model_dump_json(exclude=left_out)})


def read(message: Message) -> Inspection:
    """Return the inspection in a reply. Raises FedMergeError for anything else."""
    said, arrays = read_reply(message, Inspected)
    try:
        given = json.loads(said.text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or arrays:
        raise FedMergeError("it is no inspection")
    return validate(Inspection, given, "a hospital's inspection")
