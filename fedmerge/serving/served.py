"""What a service serves: the models, how they are used, and how their images are prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmerge.data.images import resize, to_channels
from fedmerge.errors import FedMergeError
from fedmerge.models.cards import ModelCard
from fedmerge.tasks import TASKS
from fedmerge.testtime.contract import Node


@dataclass(frozen=True, eq=False)
class Served:
    """The models behind a service, and a way to make nodes of them.

    cards: of the models, in the order of the node's coefficients. method, title, options: how they are used.
    build: makes a node that has met no batch. coefficients: of a fusion that was done before, by model; empty
    where the node decides for each batch. device: where nodes compute. samples: images to try, uint8
    N x C x H x W; None where there are none. Raises FedMergeError for models of another task than one
    class an image, whose answers have another form.
    """

    cards: tuple[ModelCard, ...]
    method: str
    title: str
    build: Callable[[], Node]
    options: Mapping[str, Any] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    samples: Tensor | None = None

    def __post_init__(self) -> None:
        task = self.cards[0].model.task
        if not TASKS[task].class_outputs:
            raise FedMergeError(
                f"'{self.cards[0].name}' is for task {task}, and a service answers with one class an image: "
                "use the models in Python (docs/tasks.md)."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(card.name for card in self.cards)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.cards[0].class_names

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the answers: the models' hashes in order, the method and its options."""
        decides = [[card.sha256 for card in self.cards], self.method, dict(self.options)]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()

    def prepare(self, pictures: list[Tensor]) -> Tensor:
        """Return the batch that the network takes, float32 N x C x S x S on ``device``.

        pictures: uint8 n x C x H x W each, of any size and with 1 or 3 channels. Each is brought to the
        network's channels and size as a cohort's images are (``data.images``), then normalised as the cards
        say.
        """
        spec, normalise = self.cards[0].model, self.cards[0].normalisation
        fitted = [resize(to_channels(each, spec.in_channels), spec.image_size) for each in pictures]
        return normalise(torch.cat(fitted).to(self.device))
