"""What a service serves: the models, how they are used, and how their images are prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmerge.data.files.fit import fitted
from fedmerge.data.images.images import to_channels
from fedmerge.data.reading import ReadOptions
from fedmerge.models.cards import ModelCard
from fedmerge.models.inputs import Inputs, Normalisation
from fedmerge.tasks import TASKS, Task
from fedmerge.testtime.contract import Node


@dataclass(frozen=True, eq=False)
class Served:
    """The models behind a service, and a way to make nodes of them.

    cards: of the models, in the order of the node's coefficients. method, title, options: how they are used.
    build: makes a node that has met no batch. coefficients: of a fusion that was done before, by model; empty
    where the node decides for each batch. device: where nodes compute. samples: images to try, uint8
    N x C x H x W; None where there are none. read: how files of images are read. inputs: this hospital's own
    normalisation, where the cards say that each has its own.
    """

    cards: tuple[ModelCard, ...]
    method: str
    title: str
    build: Callable[[], Node]
    options: Mapping[str, Any] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    samples: Tensor | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    inputs: Normalisation | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(card.name for card in self.cards)

    @property
    def task(self) -> Task:
        """What the models' outputs mean."""
        return TASKS[self.cards[0].model.task]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or of the findings, in the order of their labels."""
        return self.cards[0].class_names

    @property
    def normalisation(self) -> Inputs:
        """How images become the networks' input."""
        return self.cards[0].normalisation if self.inputs is None else self.inputs

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the answers: the models' hashes in order, the method and its options."""
        decides = [[card.sha256 for card in self.cards], self.method, dict(self.options)]
        decides += [self.read.model_dump()] if self.read != ReadOptions() else []
        decides += [] if self.inputs is None else [self.inputs.to_dict()]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()

    def stretched(self, names: Sequence[str], pictures: Sequence[Tensor]) -> list[str]:
        """Return a sentence for each image that ``prepare`` stretches without being told to.

        names: of the images, in order. pictures: as for ``prepare``, n images each.
        """
        if self.read.fit is not None:
            return []
        shapes = [picture.shape[2:] for picture in pictures for _ in picture]
        return [
            f"{name} is {shape[1]} x {shape[0]} pixels and was stretched to a square"
            for name, shape in zip(names, shapes, strict=True)
            if shape[0] != shape[1]
        ]

    def prepare(self, pictures: list[Tensor]) -> Tensor:
        """Return the batch that the network takes, float32 N x C x S x S on ``device``.

        pictures: uint8 n x C x H x W each, of any size and with 1 or 3 channels. Each is brought to the
        network's channels and size as a cohort's images are (``data.files.fit``), then normalised as the
        cards say.
        """
        spec, normalise = self.cards[0].model, self.normalisation
        shape = (spec.image_size, self.read.fit)
        ready = [fitted(to_channels(each, spec.in_channels), *shape) for each in pictures]
        return normalise(torch.cat(ready).to(self.device))
