"""Test streams: in which order an unseen hospital's images arrive.

All orders are int64 index arrays that hold every index of the labels exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fedmerge.data.partition import divide, draw_proportions
from fedmerge.errors import FedMergeError, nearest
from fedmerge.seeding import numpy_generator

KINDS = ("iid", "dirichlet", "temporal")


class StreamSpec(BaseModel):
    """A stream as written in YAML: ``iid``, ``temporal``, or ``dirichlet: 0.05`` (concentration delta)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["iid", "dirichlet", "temporal"]
    delta: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"kind": data}
        elif isinstance(data, dict) and "kind" not in data:
            if len(data) != 1:
                raise ValueError("a stream is one of iid, temporal or dirichlet: 0.05")
            ((kind, delta),) = data.items()
            data = {"kind": kind, "delta": delta}
        if isinstance(data, dict) and "kind" in data:
            kind, delta = data["kind"], data.get("delta")
            if kind not in KINDS:
                hint = nearest(str(kind), KINDS)
                raise ValueError(f"unknown stream '{kind}'.{hint} Allowed: iid, temporal, dirichlet: 0.05")
            if (kind == "dirichlet") != (delta is not None):
                raise ValueError(f"stream '{kind}' given {delta!r}; write iid, temporal or dirichlet: 0.05")
        return data

    @property
    def name(self) -> str:
        """Name in tables: ``iid``, ``temporal``, ``dirichlet-0.05``."""
        return self.kind if self.delta is None else f"{self.kind}-{self.delta:g}"


def iid(labels: np.ndarray | Tensor, rng: np.random.Generator) -> np.ndarray:
    """Any order is equally likely. labels: N. Returns int64 N."""
    return rng.permutation(len(labels)).astype(np.int64)


def dirichlet(
    labels: np.ndarray | Tensor, delta: float, n_slots: int, rng: np.random.Generator
) -> np.ndarray:
    """Bursts of classes: each class is spread over ``n_slots`` slots by q ~ Dirichlet(delta, ..., delta).

    Slots follow one another, samples inside a slot are shuffled, counts are rounded by largest remainder; a
    slot may be empty. Large delta: close to i.i.d.; delta to 0: nearly each class in one slot. This is the
    stream usual in continual test-time adaptation (NOTE, arXiv 2208.05117; LAME, arXiv 2201.05718).
    Returns int64 N. Raises ``FedMergeError`` unless delta > 0 and n_slots > 0.
    """
    if delta <= 0 or n_slots < 1:
        raise FedMergeError(f"a Dirichlet stream needs delta > 0 and slots > 0, given {delta} and {n_slots}.")
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    spread = draw_proportions(len(classes), [1.0] * n_slots, [delta] * n_slots, rng)
    slots = divide(codes, spread, rng)
    return np.concatenate([rng.permutation(slot) for slot in slots])


def temporal(labels: np.ndarray | Tensor, rng: np.random.Generator) -> np.ndarray:
    """One class after the other, classes in random order, samples inside a class shuffled. int64 N."""
    values = np.asarray(labels)
    groups = [rng.permutation(np.flatnonzero(values == c)) for c in rng.permutation(np.unique(values))]
    return np.concatenate([np.empty(0, dtype=np.int64), *groups]).astype(np.int64)


def order(spec: StreamSpec, labels: np.ndarray | Tensor, batch_size: int, seed: int, site: str) -> np.ndarray:
    """The order in which ``site`` sees its samples; a Dirichlet stream has one slot a batch. int64 N."""
    rng = numpy_generator(seed, f"stream-{spec.name}", site=site)
    if spec.kind == "iid":
        return iid(labels, rng)
    if spec.kind == "temporal":
        return temporal(labels, rng)
    assert spec.delta is not None
    n_batches = -(-len(labels) // batch_size)
    return dirichlet(labels, spec.delta, max(n_batches, 1), rng)


def batches(order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Consecutive pieces of ``order``; the last one may be short."""
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
