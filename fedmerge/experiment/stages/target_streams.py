"""The streams in which a hospital's images arrive: their orders, drifts and scanner shifts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from fedmerge.data import Appearance, Split, shown, streams
from fedmerge.experiment.configuration.config import EvaluationConfig
from fedmerge.models.weights import write_weights
from fedmerge.storage.files import make_folder

CLEAN = ("none", 0)


@dataclass(frozen=True)
class TargetStreams:
    """The target streams of a hospital: its images in one split, and the order of each stream.

    drifts: the scanner shift of each stream during which the scanner drifts.
    """

    name: str
    split: Split
    orders: dict[str, np.ndarray]
    seed: int
    drifts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, split: Split, evaluation: EvaluationConfig, seed: int) -> TargetStreams:
        """Draw the configured streams of one hospital; each holds every image once."""
        orders = {
            spec.name: streams.order(spec, split.labels, evaluation.batch_size, seed, name, split.groups)
            for spec in evaluation.streams
        }
        drifts = {spec.name: spec.shift for spec in evaluation.streams if spec.shift is not None}
        return cls(name, split, orders, seed, drifts)

    def views(self, shifts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, TargetStreams]]:
        """Yield each view of the images with its streams: (kind, severity, target streams).

        The views are: the images as they are; each drift, whose severity changes on the way and which only
        the stream's name tells (none, 0); and each fixed shift, which is not put on top of a drift.
        """
        still = {name: order for name, order in self.orders.items() if name not in self.drifts}
        as_is = TargetStreams(self.name, self.split, still, self.seed)
        if still:
            yield *CLEAN, as_is
        for name, kind in self.drifts.items():
            order = self.orders[name]
            images = shown.drifted(self.split.images, order, kind, self.seed, f"{self.name}, shifted")
            yield (
                *CLEAN,
                TargetStreams(self.name, replace(self.split, images=images), {name: order}, self.seed),
            )
        if still:
            yield from ((kind, severity, as_is.shifted(kind, severity)) for kind, severity in shifts)

    def each(self) -> Iterator[TargetStreams]:
        """The streams one by one."""
        return (replace(self, orders={name: order}) for name, order in self.orders.items())

    def parts(self, shifts: Sequence[tuple[str, int]]) -> int:
        """Count the streams of all ``views``."""
        return len(self.orders) + (len(self.orders) - len(self.drifts)) * len(shifts)

    def shifted(self, kind: str, severity: int) -> TargetStreams:
        """Return the same images in the same orders, as another scanner shows them."""
        look = [Appearance(kind=kind, severity=severity)]
        images = shown.shown(self.split.images, look, self.seed, f"{self.name}, shifted")
        return TargetStreams(self.name, replace(self.split, images=images), self.orders, self.seed)


def save_streams(site: TargetStreams, folder: Path) -> None:
    """Write the orders as int64 tensors, one a stream, to streams.safetensors."""
    make_folder(folder)
    orders = {name: torch.from_numpy(order) for name, order in site.orders.items()}
    write_weights(folder / "streams.safetensors", orders)
