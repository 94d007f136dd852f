"""The streams of a service: each client's own node, whose batches are answered in the order in which they
came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fedmerge.serving.drift import DriftAlarm
from fedmerge.serving.limits import Limits
from fedmerge.serving.refusal import Refusal
from fedmerge.testtime.contract import Node

T = TypeVar("T")
Key = tuple[str, str]


@dataclass(eq=False)
class Stream:
    """One stream of a client. node: made for its first batch. batches, images: since the last reset."""

    client: str
    name: str
    node: Node | None = None
    drift: DriftAlarm = field(default_factory=DriftAlarm)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    batches: int = 0
    images: int = 0
    used: float = field(default_factory=time.monotonic)

    def reset(self) -> None:
        """Forget what was learned of the stream: the next batch is met as the first one was."""
        if self.node is not None:
            self.node.reset()
        self.drift.reset()
        self.batches = self.images = 0


class Streams:
    """All streams, at most ``limits.streams``; and the one thread in which nodes compute, one batch at a
    time."""

    def __init__(self, build: Callable[[], Node], limits: Limits) -> None:
        self.build, self.limits = build, limits
        self.held: dict[Key, Stream] = {}
        self.waiting = 0
        self._node = ThreadPoolExecutor(1, "node")
        self._readers = ThreadPoolExecutor(2, "reader")

    @asynccontextmanager
    async def turn(self, client: str, name: str, *, make: bool = True) -> AsyncIterator[Stream]:
        """Wait until the stream's earlier calls are answered, then hold it. make: whether a new one may
        begin.

        Turns are taken in the order of the calls. Raises Refusal where too many wait, no stream is free, or,
        without ``make``, there is no such stream.
        """
        if self.waiting >= self.limits.waiting:
            raise Refusal(503, f"{self.waiting} batches wait already: send it again in a moment.")
        self.waiting += 1
        try:
            while True:
                stream = self._stream(client, name, make)
                async with self._hold(stream):
                    if self.held.get((client, name)) is not stream:  # it was ended while this call waited
                        continue
                    yield stream
                    stream.used = time.monotonic()
                    return
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def _hold(self, stream: Stream) -> AsyncIterator[None]:
        stream.users += 1
        try:
            async with stream.turns:
                yield
        finally:
            stream.users -= 1
            if stream.node is None and not stream.users:  # nothing of it was answered
                self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        key = (stream.client, stream.name)
        if self.held.get(key) is stream:
            del self.held[key]

    def _stream(self, client: str, name: str, make: bool) -> Stream:
        if (found := self.held.get((client, name))) is not None:
            return found
        if not make:
            raise Refusal(404, f"there is no stream '{name}': it begins with its first batch.")
        if len(self.held) >= self.limits.streams:
            self._make_room()
        return self.held.setdefault((client, name), Stream(client, name))

    def _make_room(self) -> None:
        """End the stream that was not used for longest, if that is longer than ``idle_seconds``."""
        before = time.monotonic() - self.limits.idle_seconds
        idle = [each for each in self.held.values() if not each.users and each.used < before]
        if not idle:
            raise Refusal(
                503,
                f"all {self.limits.streams} streams are in use: end one (DELETE /v1/streams/NAME), or ask "
                "the service's people for more (--set streams=N).",
            )
        oldest = min(idle, key=lambda each: each.used)
        del self.held[oldest.client, oldest.name]

    def end(self, stream: Stream) -> None:
        """Forget a stream that is held in a turn, and free its node."""
        self._drop(stream)
        stream.node = None

    async def read(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in a thread that reads images."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def compute(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in the nodes' thread. Raises Refusal if its turn does not come in
        time."""
        future = self._node.submit(work)
        done = asyncio.wrap_future(future)
        finished, _ = await asyncio.wait([done], timeout=self.limits.answer_seconds)
        if not finished and future.cancel():  # it had not begun
            raise Refusal(
                503, f"no answer within {self.limits.answer_seconds:g} seconds: send it again later."
            )
        return await done

    def close(self) -> None:
        """Wait for the work in flight, and end the threads."""
        self._readers.shutdown()
        self._node.shutdown()
