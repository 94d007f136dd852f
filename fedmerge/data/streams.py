"""Test streams: the order in which an unseen hospital's images arrive, and scanners that drift.

All orders are int64 index arrays that hold every index of the labels exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from torch import Tensor

from fedmerge.data import scanner
from fedmerge.data.images.stored import StoredImages, stored
from fedmerge.data.partition import divide, draw_proportions
from fedmerge.data.scanner import Appearance, ShiftName
from fedmerge.errors import FedMergeError, nearest, unknown
from fedmerge.schema.validation import NoBoolean
from fedmerge.seeding import numpy_generator
from fedmerge.tasks.label_sets import strata

KINDS = ("iid", "dirichlet", "note", "temporal", "recurring", "drift")
TAKES = {"dirichlet": "delta", "note": "delta", "recurring": "cycles", "drift": "shift"}
"""The field that a kind of stream needs; the others take none."""
FORMS = "iid, temporal, dirichlet: 0.05, note: 0.05, recurring: 3 or drift: contrast"
SMALLEST, TRIES = 10, 100
"""NOTE's chunks: the fewest samples of one, and how often they are drawn for that."""
DRIFT = (1, 2, 3, 4, 5, 4, 3, 2, 1)
"""The severities of a drifting scanner, in the stretches in which they come."""


class StreamSpec(BaseModel):
    """A stream as written in YAML: ``iid``, ``temporal``, or a mapping of one kind to its parameter.

    ``dirichlet: 0.05``, ``note: 0.05`` (concentration delta), ``recurring: 3`` (cycles), ``drift: contrast``
    (scanner shift).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["iid", "dirichlet", "note", "temporal", "recurring", "drift"]
    delta: Annotated[float | None, NoBoolean] = Field(default=None, gt=0, allow_inf_nan=False)
    cycles: int | None = Field(default=None, ge=1, strict=True)
    shift: ShiftName | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"kind": data}
        elif isinstance(data, dict) and "kind" not in data:
            if len(data) != 1:
                raise ValueError(f"a stream is one of {FORMS}")
            ((kind, value),) = data.items()
            data = {"kind": kind, TAKES.get(kind, "delta"): value}
        if isinstance(data, dict):
            kind = data["kind"]
            if kind not in KINDS:
                hint = nearest(str(kind), KINDS)
                raise ValueError(f"unknown stream '{kind}'.{hint} Allowed: {FORMS}")
            given = {field: data[field] for field in TAKES.values() if data.get(field) is not None}
            if list(given) != ([TAKES[kind]] if kind in TAKES else []):
                values = ", ".join(map(repr, given.values())) or "nothing"
                raise ValueError(f"stream '{kind}' given {values}; write {FORMS}")
        return data

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        own = {"cycles": self.cycles, "shift": self.shift}
        return {"kind": self.kind, "delta": self.delta} | {k: v for k, v in own.items() if v is not None}

    @property
    def name(self) -> str:
        """Name in tables: ``iid``, ``dirichlet-0.05``, ``note-0.05``, ``recurring-3``, ``drift-contrast``."""
        if self.delta is not None:
            return f"{self.kind}-{self.delta:g}"
        takes = self.shift or self.cycles
        return self.kind if takes is None else f"{self.kind}-{takes}"


def iid(labels: np.ndarray | Tensor, rng: np.random.Generator) -> np.ndarray:
    """Any order is equally likely. labels: N. Returns int64 N."""
    return rng.permutation(len(_checked(labels))).astype(np.int64)


def _checked(labels: np.ndarray | Tensor) -> np.ndarray:
    """Return labels as an array N. Raises FedMergeError for other shapes, and for NaN, which is no class."""
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1:
        raise FedMergeError(
            f"labels of a stream are one class an image, N, but are of shape {values.shape}: make a class of "
            "each label set, as streams.order does."
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise FedMergeError("labels of a stream hold NaN, which is no class: leave those images out.")
    return values


def _whole(number: float, what: str) -> None:
    if not (float(number).is_integer() and number >= 1):
        raise FedMergeError(f"{what} is {number}: give a whole number of at least 1.")


def dirichlet(
    labels: np.ndarray | Tensor, delta: float, n_slots: int, rng: np.random.Generator
) -> np.ndarray:
    """Bursts of classes: each class is spread over ``n_slots`` slots by q ~ Dirichlet(delta, ..., delta).

    Slots follow one another, samples inside a slot are shuffled, counts are rounded by largest remainder; a
    slot may be empty. Large delta: close to i.i.d.; delta to 0: nearly each class in one slot. It is this
    library's own, and milder than the streams of the literature at the same delta: NOTE (see ``note``) and
    RoTTA (arXiv 2303.13899) have fewer slots, one a class, and keep a class together inside a slot; LAME
    (arXiv 2201.05718) has no Dirichlet law, but whole classes or videos one after the other, as ``temporal``.
    Returns int64 N. Raises ``FedMergeError`` unless delta > 0 and finite, and n_slots > 0.
    """
    _whole(n_slots, "the number of slots of a Dirichlet stream")
    if not 0 < delta < np.inf:
        raise FedMergeError(f"a Dirichlet stream needs a finite delta > 0, given {delta}.")
    classes, codes = np.unique(_checked(labels), return_inverse=True)
    spread = draw_proportions(len(classes), [1.0] * n_slots, [delta] * n_slots, rng)
    slots = divide(codes, spread, rng)
    return np.concatenate([rng.permutation(slot) for slot in slots])


def note(labels: np.ndarray | Tensor, delta: float, rng: np.random.Generator) -> np.ndarray:
    """NOTE's stream (arXiv 2208.05117, by its released program): a chunk a class, and in it runs of classes.

    For C classes and N samples: class by class, in the order of the labels, q ~ Dirichlet(delta, ..., delta)
    over the C chunks says which part of the class goes to which chunk. A chunk that already has N / C samples
    gets none, the rest of q is scaled to sum to one, and the n samples of the class are cut at the
    floor(n (q_1 + ... + q_j)). All is drawn again until every chunk has at least 10 samples. Chunks follow
    one another; inside a chunk the samples of a class stay together, shuffled, and the classes are in random
    order. Large delta: every chunk has all classes, one after the other; delta to 0: each class is one run.
    Patients are not kept together.

    Departures: it is drawn at most 100 times, and then the draw is taken whose smallest chunk is largest
    (theirs goes on for ever where labels are few or uneven); no sample is dropped at the end of the stream;
    classes that do not occur are not counted.
    Returns int64 N. Raises ``FedMergeError`` unless delta > 0 and finite.
    """
    if not 0 < delta < np.inf:
        raise FedMergeError(f"NOTE's stream needs a finite delta > 0, given {delta}.")
    classes, codes = np.unique(_checked(labels), return_inverse=True)
    best, most = [[np.empty(0, dtype=np.int64)]], -1
    for _ in range(TRIES if len(classes) else 0):
        chunks = _chunks(codes, len(classes), delta, rng)
        smallest = min(sum(map(len, chunk)) for chunk in chunks)
        if smallest > most:
            best, most = chunks, smallest
        if smallest >= SMALLEST:
            break
    return np.concatenate([chunk[c] for chunk in best for c in rng.permutation(len(chunk))])


def _chunks(codes: np.ndarray, n: int, delta: float, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Draw NOTE's n chunks once: in each, the samples of each of the n classes. codes: N, below n."""
    chunks: list[list[np.ndarray]] = [[] for _ in range(n)]
    sizes = np.zeros(n, dtype=np.int64)
    for c in range(n):
        members = rng.permutation(np.flatnonzero(codes == c))
        takes = sizes * n < len(codes)
        shares = draw_proportions(1, [1.0] * n, [delta] * n, rng, takes[:, None])[:, 0]
        ends = np.cumsum(shares)[:-1] * len(members) + 1e-9  # a sum that rounds to just below 1 is 1
        for j, piece in enumerate(np.split(members, ends.astype(np.int64))):
            chunks[j].append(piece)
            sizes[j] += len(piece)
    return chunks


def temporal(
    labels: np.ndarray | Tensor, rng: np.random.Generator, groups: np.ndarray | Tensor | None = None
) -> np.ndarray:
    """One class after the other, classes in random order, samples inside a class shuffled. int64 N.

    groups: N, whose sample each one is (patients). Where they are given, the samples of a class come patient
    by patient, patients in random order in each class, and those of a patient shuffled. Raises
    ``FedMergeError`` for another number of groups than labels.
    """
    values, whose = _checked(labels), None if groups is None else np.asarray(groups)
    if whose is not None and whose.shape != values.shape:
        raise FedMergeError(
            f"groups should be one a label, but are of shape {whose.shape} and labels of {values.shape}."
        )
    pieces = [np.empty(0, dtype=np.int64)]
    for c in rng.permutation(np.unique(values)):
        at = np.flatnonzero(values == c)
        if whose is None:
            pieces.append(rng.permutation(at))
        else:
            own = whose[at]
            pieces += [rng.permutation(at[own == group]) for group in rng.permutation(np.unique(own))]
    return np.concatenate(pieces).astype(np.int64)


def recurring(
    labels: np.ndarray | Tensor,
    cycles: int,
    rng: np.random.Generator,
    groups: np.ndarray | Tensor | None = None,
) -> np.ndarray:
    """Classes that go and come back: the temporal order in ``cycles`` rounds, each one class after the other.

    Sample k = 0, 1, ... of a class of n samples comes in round floor(k cycles / n), so that a class's counts
    by round differ by at most one; the order of the classes is the same in every round. One cycle is
    ``temporal``; more cycles than samples count as that many. labels: N. groups: as ``temporal`` takes them;
    a patient whose samples reach into the next round goes on there. Returns int64 N.
    Raises ``FedMergeError`` unless cycles > 0, and as ``temporal`` does.
    """
    _whole(cycles, "the number of cycles of a recurring stream")
    order = temporal(labels, rng, groups)
    values = _checked(labels)[order]
    rounds = np.empty(len(order), dtype=np.int64)
    for c in np.unique(values):
        at = np.flatnonzero(values == c)
        rounds[at] = np.arange(len(at)) * min(cycles, len(order)) // len(at)
    return order[np.argsort(rounds, kind="stable")]


def severities(n: int) -> np.ndarray:
    """The severity of a drifting scanner at each of n positions: ``DRIFT`` in equal stretches. int64 n."""
    return np.array(DRIFT, dtype=np.int64)[np.arange(n) * len(DRIFT) // max(n, 1)]


def drifting(images: Tensor, order: np.ndarray, shift: str, seed: int, site: str) -> Iterator[Tensor]:
    """Yield images as a scanner shows them whose shift grows and fades while they arrive in ``order``.

    images: uint8 N x C x H x W; yielded likewise, some at a time, in their own order. Image ``order[p]`` is
    seen at ``severities(N)[p]``, with the bits that ``scanner.apply`` gives all images at that severity: what
    the shift draws is one scanner's trait, drawn once. Raises ``FedMergeError`` for an order of another
    length, and an unknown shift.
    """
    scanner.check_pixels(images)
    if shift not in scanner.SHIFTS:
        raise unknown("scanner shift", shift, scanner.SHIFTS)
    if len(order) != len(images):
        raise FedMergeError(f"the order has {len(order)} places, but there are {len(images)} images.")
    severity = np.empty(len(order), dtype=np.int64)
    severity[order] = severities(len(order))
    levels = np.unique(severity)
    which = torch.from_numpy(np.searchsorted(levels, severity))
    held = images if isinstance(images, StoredImages) else stored(images)
    looks = [[Appearance(kind=shift, severity=int(level))] for level in levels]
    start = 0
    for shown in zip(*(scanner.seen(held, look, seed, site) for look in looks), strict=True):
        count = len(shown[0])
        yield torch.stack(shown)[which[start : start + count], torch.arange(count)]
        start += count


def order(
    spec: StreamSpec,
    labels: np.ndarray | Tensor,
    batch_size: int,
    seed: int,
    site: str,
    groups: np.ndarray | Tensor | None = None,
) -> np.ndarray:
    """The order in which ``site`` sees its samples; a Dirichlet stream has one slot a batch. int64 N.

    Under drift any order is equally likely; ``drifting`` gives what the images look like. groups: patients,
    to which the temporal and the recurring order keep; None where they are not known. labels: N; or N x F,
    whose label sets are the classes (``tasks.label_sets``).
    """
    _whole(batch_size, "the size of a stream's batches")
    labels = strata(labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels))
    rng = numpy_generator(seed, f"stream-{spec.name}", site=site)
    if spec.kind in ("iid", "drift"):
        return iid(labels, rng)
    if spec.kind == "temporal":
        return temporal(labels, rng, groups)
    if spec.cycles is not None:
        return recurring(labels, spec.cycles, rng, groups)
    assert spec.delta is not None
    if spec.kind == "note":
        return note(labels, spec.delta, rng)
    n_batches = -(-len(labels) // batch_size)
    return dirichlet(labels, spec.delta, max(n_batches, 1), rng)


def batches(order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Consecutive pieces of ``order``; the last one may be short. FedMergeError unless batch_size > 0."""
    _whole(batch_size, "the size of a stream's batches")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
