"""A Flower Grid over worker processes of Ray: a hospital stays with the worker that has it loaded.

Weights go into Ray's object store once for all hospitals that get the same, and come back out of it; on one
machine nobody copies them on the way. Replies come in the order of the messages.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from flwr.app import Array, ArrayRecord, Message, RecordDict
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import LentArray
from fedmerge.federation.grid import SimulatedGrid, debugging
from fedmerge.federation.ray_pool import Hand, Pool
from fedmerge.federation.ray_sending import Flight, Sending
from fedmerge.federation.ray_worker import Answer, Call, Opening, Steps


@dataclass(frozen=True)
class _Kept:
    """A hospital's state between messages: how often it changed, and where it is."""

    version: int = 0
    state: Any = None


class RayGrid(SimulatedGrid):
    """Carries messages between a ServerApp and one hospital an ``Opening``, run by the workers of ``pool``.

    sizes: how much work each hospital is, in any unit, so that workers get equal shares of it. progress:
    called with (number of the hospital, steps done, steps in all). debug: let a hospital's exception through.
    ahead: see ``Sending``; by default four messages a worker.
    """

    def __init__(
        self,
        pool: Pool,
        openings: Sequence[Opening],
        sizes: Sequence[float] | None = None,
        *,
        progress: Callable[[int, int, int], None] | None = None,
        debug: bool | None = None,
        ahead: int | None = None,
    ) -> None:
        super().__init__(len(openings))
        self.pool = pool
        self.debug = debugging() if debug is None else debug
        self.shelf = Shelf()
        self._name = uuid4().hex
        self._progress = progress
        self._ahead = 4 * pool.count if ahead is None else ahead
        self._openings = dict(zip(self._nodes, map(_put, openings), strict=True))
        self._homes = dict(zip(self._nodes, shares(sizes or [1.0] * len(openings), pool.count), strict=True))
        self._kept = dict.fromkeys(self._nodes, _Kept())
        self._pushed: list[Sending] = []
        pool.gather()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send the messages; returns their ids."""
        sent = list(messages)
        ids = [self.number(message) for message in sent]
        self._pushed.append(Sending(self, sent, len(sent)))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are there by now; each can be pulled once."""
        ids = list(message_ids)
        return [reply for sending in self._pushed for reply in sending.pull(ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Sending:
        """Send the messages; their replies in the same order, each when it is there.

        After ``timeout`` seconds every message without a reply is answered by an Error.
        """
        sent = list(messages)
        for message in sent:
            self.number(message)
        return Sending(self, sent, self._ahead, timeout=timeout)

    def ask(self, messages: list[Message], seconds: float | None) -> Sending:
        """See ``SimulatedGrid``. A worker that takes longer is replaced, and its message gets an Error."""
        for message in messages:
            self.number(message)
        return Sending(self, messages, self._ahead, each=seconds)

    def home(self, message: Message) -> int:
        """The number of the worker that has a message's hospital loaded."""
        return self._homes[message.metadata.dst_node_id]

    def call(self, hand: Hand, index: int, message: Message) -> Flight:
        """Hand a message to a worker."""
        node = message.metadata.dst_node_id
        arrays = dict(message.content.array_records)
        rest = {name: record for name, record in message.content.items() if name not in arrays}
        light = copy.copy(message)
        light.content = RecordDict(rest)
        kept = self._kept[node]
        call = Call(
            run=self._name,
            nodes=len(self._nodes),
            message=light,
            arrays=tuple(arrays),
            version=kept.version,
            debug=self.debug,
        )
        references = [self._openings[node]] + ([kept.state] if kept.version else [])
        answer, state = hand.actor.handle.remote(
            call, references, *map(self.shelf.reference, arrays.values())
        )
        return Flight(index, answer, state)

    def answered(self, message: Message, answer: Answer, state: Any) -> None:
        """Take note of a hospital's new state, and of the end of its training."""
        node = message.metadata.dst_node_id
        if answer.changed:
            self._kept[node] = _Kept(self._kept[node].version + 1, state)
            ray.wait([state], timeout=0)  # begins to bring a copy to this node, in case that one is lost
        elif answer.lost:
            self._kept[node] = _Kept()
        if answer.steps is not None:
            self._show((node, answer.steps[2], answer.steps[2]))

    def look(self, hand: Hand) -> None:
        """Ask a worker how far its training is, and show it."""
        if self._progress is None:
            return
        try:
            steps = ray.get(hand.actor.steps.remote(), timeout=0.2)
        except RayError:  # busy or dead: the next look, or the reply, will tell
            return
        if steps is not None and steps[1] < steps[2]:
            self._show(steps)

    def _show(self, steps: Steps) -> None:
        if self._progress is not None:
            node, done, total = steps
            self._progress(self._nodes.index(node), done, total)


class Shelf:
    """Arrays in Ray's object store: those that many messages share are put there once.

    puts: how often something was. The last two sets of arrays are kept: what is evaluated after a round is
    what the next one begins with.
    """

    def __init__(self) -> None:
        self.puts = 0
        self._held: dict[tuple[Any, ...], tuple[Any, dict[str, Array]]] = {}

    def reference(self, record: ArrayRecord) -> Any:
        """The reference to a record with these arrays; they are the same if they are the same memory."""
        key = tuple((name, *_whereabouts(array)) for name, array in record.items())
        held = self._held.pop(key, None)
        if held is None:
            self.puts += 1
            held = (_put(_lent(record)), dict(record))
        self._held[key] = held
        for oldest in list(itertools.islice(self._held, max(0, len(self._held) - 2))):
            del self._held[oldest]
        return held[0]


def shares(sizes: Sequence[float], workers: int) -> list[int]:
    """Which worker each hospital goes to: in order, to the one that has the least to do so far.

    So workers have nearly equal shares of the work, and replies come nearly in the order of the hospitals.
    """
    loads = [0.0] * workers
    homes = []
    for size in sizes:
        home = loads.index(min(loads))
        loads[home] += size
        homes.append(home)
    return homes


def _put(value: Any) -> Any:
    """A reference to a value in the object store. Raises FedMergeError where that and the disk are full."""
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
