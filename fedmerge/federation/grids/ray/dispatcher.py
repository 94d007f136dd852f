"""Dispatch requests to workers: each hospital's worker and state, and arrays in the object store."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from flwr.app import Array, ArrayRecord, Message, RecordDict
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import LentArray
from fedmerge.federation.grids.ray.pool import WorkerHandle
from fedmerge.federation.grids.ray.worker import Opening, Steps, WorkerReply, WorkerRequest


@dataclass
class Flight:
    """A message at a worker: its index, and references to reply and state. since: the start of its work."""

    index: int
    reply: Any
    state: Any
    since: float = 0.0


@dataclass(frozen=True)
class _Kept:
    """A hospital's state between messages: its version, and a reference to it."""

    version: int = 0
    state: Any = None


class Dispatcher:
    """Sends messages to the workers of hospitals, and keeps each hospital's state, by node id.

    homes: the number of each hospital's worker. progress: see ``RayGrid``. debug: whether a hospital's
    exception is raised.
    """

    def __init__(
        self,
        openings: Mapping[int, Opening],
        homes: Mapping[int, int],
        progress: Callable[[int, int, int], None] | None,
        debug: bool,
    ) -> None:
        self.debug = debug
        self.model_cache = ModelCache()
        self._name = uuid4().hex
        self._progress = progress
        self._nodes = list(openings)
        self._openings = {node: _put(opening) for node, opening in openings.items()}
        self._homes = homes
        self._kept = dict.fromkeys(openings, _Kept())

    def home(self, message: Message) -> int:
        """Return the number of the worker of a message's hospital."""
        return self._homes[message.metadata.dst_node_id]

    def call(self, hand: WorkerHandle, index: int, message: Message) -> Flight:
        """Send a message to a worker."""
        node = message.metadata.dst_node_id
        arrays = dict(message.content.array_records)
        rest = {name: record for name, record in message.content.items() if name not in arrays}
        light = copy.copy(message)
        light.content = RecordDict(rest)
        kept = self._kept[node]
        call = WorkerRequest(
            run=self._name,
            nodes=len(self._nodes),
            message=light,
            arrays=tuple(arrays),
            version=kept.version,
            debug=self.debug,
        )
        references = [self._openings[node]] + ([kept.state] if kept.version else [])
        reply, state = hand.actor.handle.remote(
            call, references, *map(self.model_cache.reference, arrays.values())
        )
        return Flight(index, reply, state)

    def answered(self, message: Message, reply: WorkerReply, state: Any) -> None:
        """Keep a hospital's new state, and show the end of its training."""
        node = message.metadata.dst_node_id
        if reply.changed:
            self._kept[node] = _Kept(self._kept[node].version + 1, state)
            ray.wait([state], timeout=0)  # starts a copy to this node, in case the other node is lost
        elif reply.lost:
            self._kept[node] = _Kept()
        if reply.steps is not None:
            self._show((node, reply.steps[2], reply.steps[2]))

    def look(self, hand: WorkerHandle) -> None:
        """Ask a worker for the progress of its training, and show it."""
        if self._progress is None:
            return
        try:
            steps = ray.get(hand.actor.steps.remote(), timeout=0.2)
        except RayError:  # busy or dead: the next call, or the reply, will tell
            return
        if steps is not None and steps[1] < steps[2]:
            self._show(steps)

    def _show(self, steps: Steps) -> None:
        if self._progress is not None:
            node, done, total = steps
            self._progress(self._nodes.index(node), done, total)


class ModelCache:
    """Arrays in Ray's object store: arrays that many messages share are put there once.

    puts: the number of puts. The last two sets of arrays are kept: a round's new model is evaluated, then
    starts the next round.
    """

    def __init__(self) -> None:
        self.puts = 0
        self._held: dict[tuple[Any, ...], tuple[Any, dict[str, Array]]] = {}

    def reference(self, record: ArrayRecord) -> Any:
        """Return the reference to a record with these arrays; arrays with the same memory are the same."""
        key = tuple((name, *_whereabouts(array)) for name, array in record.items())
        held = self._held.pop(key, None)
        if held is None:
            self.puts += 1
            held = (_put(_lent(record)), dict(record))
        self._held[key] = held
        for oldest in list(itertools.islice(self._held, max(0, len(self._held) - 2))):
            del self._held[oldest]
        return held[0]


def _put(value: Any) -> Any:
    """Put a value into the object store. Raises FedMergeError if that and the disk are full."""
    try:
        return ray.put(value)
    except (ObjectStoreFullError, OutOfDiskError):
        raise FedMergeError(
            "Ray's object store is full, and so is the disk that it moves things to: start the cluster with "
            "more (ray start --object-store-memory), or free some disk."
        ) from None


def _whereabouts(array: Array) -> tuple[Any, ...]:
    if isinstance(array, LentArray):
        return (array.numpy().__array_interface__["data"][0], array.dtype, array.shape)
    return (id(array.data),)


def _lent(record: ArrayRecord) -> ArrayRecord:
    lent = ArrayRecord()
    for name, array in record.items():
        lent[name] = array if isinstance(array, LentArray) else LentArray(array.numpy())
    return lent
