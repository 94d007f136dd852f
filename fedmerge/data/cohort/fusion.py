"""The images over which models are fused: a public set at the server, or a small share of each hospital's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_serializer, model_validator

from fedmerge.data.cohort.cohort import Cohort, Site
from fedmerge.data.cohort.spec import Frozen, SourceText
from fedmerge.data.images.images import Split, resize, to_channels
from fedmerge.data.partition import largest_remainder
from fedmerge.data.sources.labels import relabel
from fedmerge.data.sources.raw import RawSource
from fedmerge.data.sources.sources import load_source, medmnist_set, source_key
from fedmerge.errors import FedMergeError
from fedmerge.schema.validation import Distinct
from fedmerge.seeding import numpy_generator


class FusionData(Frozen):
    """Which images a fusion may work with, written ``fusion_data: {from: union, images: 400}``.

    from: ``server``, a public set there, drawn from the training split of ``source``; ``union``, the same
    number from each source hospital, moved to the server; ``hospitals``, the same images, which stay where
    they are: only sums over them travel (the same number from each, rounded down). images: how many in all; a
    hospital that has fewer gives what it has. split: which images hospitals give. sites: take
    shares from these hospitals only.

    Shares of ``val`` are held out from the training of the parents. The validation score of a fused model is
    then computed on images that include those the fusion saw (without their labels, for most methods), so
    it is slightly favourable; test images are never among them. Shares of ``train`` are images that a parent
    was trained on.
    """

    origin: Literal["server", "union", "hospitals"] = Field(alias="from")
    images: int = Field(default=400, ge=1)
    source: SourceText | None = None
    split: Literal["val", "train"] = "val"
    sites: Annotated[tuple[str, ...], Distinct] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> FusionData:
        if self.origin == "server":
            if self.source is None:
                raise ValueError("from: server needs a source of images: add one, for example source: digits")
            for field in ("split", "sites"):
                if field in self.model_fields_set:
                    raise ValueError(f"{field} says what hospitals give, but from is server: take it out")
        elif self.source is not None:
            raise ValueError(f"source is for from: server, but from is {self.origin}: take it out")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        given: dict[str, Any] = {"from": self.origin, "images": self.images}
        if self.origin == "server":
            return given | {"source": self.source}
        return given | {"split": self.split} | ({"sites": list(self.sites)} if self.sites else {})


def portions(data: FusionData, sites: Sequence[str]) -> dict[str, int]:
    """Divide ``data.images`` over ``sites`` as equally as possible: how many images each is asked for.

    With fewer images than sites, the last sites are asked for none and are left out. Where images stay in
    the hospitals, each is asked for the same number, rounded down, whoever else takes part: a hospital gives
    no sums over sets that differ by a few images.
    """
    if data.origin == "hospitals":
        return dict.fromkeys(sites, data.images // len(sites)) if data.images >= len(sites) else {}
    counts = largest_remainder(data.images, np.full(len(sites), 1 / len(sites)))
    return {site: n for site, n in zip(sites, counts.tolist(), strict=True) if n}


def share(site: Site, images: int, split: Literal["val", "train"], seed: int) -> Split:
    """A hospital's share: ``images`` of its ``split``, classes as equal as possible; all if it has fewer.

    The draw depends on the seed and the site's name alone, and a smaller share is part of a larger one.
    """
    held: Split = getattr(site, split)
    return held.select(balanced(held.strata, images, _generator(seed, site.name)))


def server_set(data: FusionData, cohort: Cohort, seed: int, labelled: bool = True) -> Split:
    """The server's public images, as the cohort's are in size and channels, drawn class-balanced.

    labelled: whether the labels are used; only then must they mean the classes of the cohort. Raises
    ``FedMergeError`` for whatever ``load_source`` refuses, for a source that a site of the cohort has (the
    fusion would see images it is measured on), and for labels that do not fit.
    """
    assert data.source is not None
    _check_elsewhere(data.source, cohort)
    channels, size, _ = cohort.shape
    raw = load_source(data.source, cohort.folder, size, channels)
    index = balanced(raw.train.strata, data.images, _generator(seed, ""))
    train = _labelled(raw, cohort.class_names) if labelled else raw.train
    drawn = train.select(index)
    return Split(resize(to_channels(drawn.images, channels), size), drawn.labels)


def balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` indices, one of each class in turn while it lasts; int64; all if there are fewer.

    labels: integers, N. Classes and their samples come in random order, so the first k of the indices are a
    balanced draw of k, whatever ``count`` is.
    """
    order = rng.permutation(len(labels))
    classes, found = np.unique(labels[order], return_inverse=True)
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class come before it
    for label in range(len(classes)):
        members = np.flatnonzero(found == label)
        turn[members] = np.arange(len(members))
    first = rng.permutation(len(classes))
    return order[np.lexsort((first[found], turn))][:count].astype(np.int64)


def _generator(seed: int, site: str) -> np.random.Generator:
    return numpy_generator(seed, "fusion-data", site=site)


def _check_elsewhere(source: str, cohort: Cohort) -> None:
    key, of_set = source_key(source, cohort.folder), medmnist_set(source)
    for site in cohort.sites:
        try:
            same = source_key(site.source, cohort.folder) == key
            same = same or (of_set is not None and medmnist_set(site.source) == of_set)  # in another size
        except FedMergeError:  # arrays in memory, or a file that is gone by now
            same = False
        if same:
            raise FedMergeError(
                f"fusion_data.source '{source}' is where the images of site '{site.name}' come from: the "
                "fusion would see images it is measured on. Name another source, or set from: union."
            )


def _labelled(raw: RawSource, names: tuple[str, ...]) -> Split:
    if raw.class_names is not None and not raw.by_name and raw.class_names != names:
        raise FedMergeError(
            f"fusion_data.source '{raw.text}' has the classes {', '.join(raw.class_names)}, and the cohort "
            f"{', '.join(names)}: a fusion method uses the labels, so name a source with the same classes."
        )
    return relabel(raw, names, "fusion_data")[0]
