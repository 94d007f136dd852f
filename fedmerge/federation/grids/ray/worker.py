"""A worker process: it runs several hospitals, one message at a time, and keeps them loaded."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray.exceptions import RayError

from fedmerge.blame import exits_named
from fedmerge.errors import FedMergeError
from fedmerge.federation.grids.ray.numerics import Numerics
from fedmerge.federation.simulated import contexts, failed

StepProgress = Callable[[int, int], None]
Opening = Callable[[StepProgress], ClientApp]
"""A function that makes a hospital's ClientApp in its worker's process; it is sent there once."""

Steps = tuple[int, int, int]  # node id, steps done, steps in all


@dataclass(frozen=True)
class WorkerRequest:
    """One message to a worker, without its arrays, which are in the object store.

    run: the id of the grid; a worker drops hospitals of another grid. nodes: their number. arrays: the names
    of the array records that follow. version: of the hospital's state between messages.
    """

    run: str
    nodes: int
    message: Message
    arrays: tuple[str, ...]
    version: int
    debug: bool


@dataclass(frozen=True)
class WorkerReply:
    """A worker's reply to a request. steps: the last of a training; changed: whether the state is new; lost:
    whether the state named in the request is lost."""

    message: Message
    steps: Steps | None = None
    changed: bool = False
    lost: bool = False


class _StateLost(FedMergeError):
    pass


@dataclass
class _Room:
    app: ClientApp
    context: Context
    version: int


class Worker:
    """The actor of a worker. Its methods run in one thread, but ``steps`` can be called during a training.

    A hospital's Context belongs to the run, not to this process: if a message changed its state, the new
    state goes back with the reply, so that another worker can run the hospital next time.
    """

    def __init__(self, numerics: Numerics) -> None:
        self._numerics = numerics
        self._run = ""
        self._rooms: dict[int, _Room] = {}
        self._steps: Steps | None = None

    def hello(self) -> dict[str, str]:
        """Apply the server's numerics; return the versions of this process, which shows that it is ready."""
        self._numerics.apply()
        return versions()

    @ray.method(concurrency_group="watch")
    def steps(self) -> Steps | None:
        """Return the progress of the current training."""
        return self._steps

    @ray.method(num_returns=2)
    def handle(
        self, call: WorkerRequest, kept: Sequence[Any], *records: ArrayRecord
    ) -> tuple[WorkerReply, RecordDict | None]:
        """Answer a message; the second value is the hospital's new state, or None if it did not change.

        kept: references to the hospital's Opening and, from version 1 on, to its state.
        """
        message = call.message
        for name, record in zip(call.arrays, records, strict=True):
            message.content[name] = record
        self._steps = None
        try:
            room = self._room(call, kept)
            before = room.context.state.copy()
            with exits_named():
                reply = room.app(message, room.context)
        except Exception as error:
            if call.debug:
                raise
            return WorkerReply(failed(message, error), lost=isinstance(error, _StateLost)), None
        steps, self._steps = self._steps, None
        state = room.context.state
        if state == before or (not before and all(len(record) == 0 for record in state.values())):
            return WorkerReply(reply, steps), None
        room.version = call.version + 1
        return WorkerReply(reply, steps, changed=True), state

    def _room(self, call: WorkerRequest, kept: Sequence[Any]) -> _Room:
        if call.run != self._run:
            self._rooms.clear()
            self._run = call.run
        node = call.message.metadata.dst_node_id
        room = self._rooms.get(node)
        if room is None:
            opening: Opening = ray.get(kept[0])
            room = _Room(opening(self._noting(node)), contexts(call.nodes)[node], 0)
        if room.version != call.version:
            room.context.state = _fetch(kept[1])
            room.version = call.version
        self._rooms[node] = room
        return room

    def _noting(self, node: int) -> StepProgress:
        def note(done: int, total: int) -> None:
            self._steps = (node, done, total)

        return note


def versions() -> dict[str, str]:
    """Return the versions that must be the same in all processes of a run."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | {name: _version(name) for name in ("fedmerge", "torch", "flwr")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path
        return "not installed"


def _fetch(state: Any) -> RecordDict:
    try:
        found: RecordDict = ray.get(state)
    except RayError as error:
        raise _StateLost(
            f"what this hospital kept between rounds was lost with a node of the cluster "
            f"({type(error).__name__}); it goes on without"
        ) from None
    return found
