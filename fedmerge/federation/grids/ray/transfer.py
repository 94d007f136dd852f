"""Messages sent to the workers, and their replies in the order of the messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import ray
from flwr.app import Message
from ray.exceptions import RayError, RayTaskError

from fedmerge.cluster.room import first_line
from fedmerge.federation.grids.ray.dispatcher import Dispatcher, Flight
from fedmerge.federation.grids.ray.pool import Pool, WorkerHandle
from fedmerge.federation.grids.ray.worker import WorkerReply
from fedmerge.federation.simulated import FAILED, LATE, failed

DEPTH = 2  # the most messages of a worker: the current one and the next
TICK = 0.25  # seconds between two checks of a training's progress


class Transfer(Iterator[Message]):
    """Yields replies in the order of the messages, each as soon as it and those before it are available.

    A message is sent when its worker has fewer than ``DEPTH``, and when it is less than ``ahead`` messages
    beyond the next reply to be taken: taking replies one by one needs memory for ``ahead`` of them, however
    many hospitals there are. When a worker dies, its current message gets an Error reply; its other messages
    go to its successor, or to a worker without work. A worker that takes more than ``each`` seconds for a
    message is ended, with the same result. After ``timeout`` seconds in all, every message without a reply
    gets an Error, and the workers with such messages are replaced.
    """

    def __init__(
        self,
        pool: Pool,
        dispatcher: Dispatcher,
        messages: list[Message],
        ahead: int,
        *,
        timeout: float | None = None,
        each: float | None = None,
    ) -> None:
        self._pool = pool
        self._desk = dispatcher
        self._messages = messages
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._each = each
        self._ahead = ahead
        self._given = 0
        self._done: dict[int, Message] = {}
        self._flights: dict[WorkerHandle, deque[Flight]] = {}
        self._waiting: list[deque[int]] = [deque() for _ in self._pool.hands]
        for index, message in enumerate(messages):
            self._waiting[dispatcher.home(message)].append(index)
        self._submit()

    def __next__(self) -> Message:
        if self._given == len(self._messages):
            raise StopIteration
        while self._given not in self._done:
            self.turn()
        reply = self._done.pop(self._given)
        self._given += 1
        self._submit()
        return reply

    def pull(self, ids: list[str]) -> list[Message]:
        """Return the available replies to these messages, without waiting; each is given once."""
        self.turn(0.0)
        wanted = [i for i in sorted(self._done) if self._messages[i].metadata.message_id in ids]
        return [self._done.pop(i) for i in wanted]

    def turn(self, wait: float = TICK) -> None:
        """Send messages to workers with room, then wait up to ``wait`` seconds for replies."""
        left = wait if self._end is None else self._end - time.monotonic()
        if left <= 0 < wait:
            self._expire()
            return
        self._submit()
        flights = [flight.reply for flown in self._flights.values() for flight in flown]
        if not flights:
            self._pool.wait(1, min(wait, left))
        elif ray.wait(flights, num_returns=1, timeout=min(wait, left))[0]:
            for hand in list(self._flights):
                self._collect(hand)
        else:
            self._look()
        self._interrupt()

    def _submit(self) -> None:
        for hand in self._pool.ready():
            flown = self._flights.setdefault(hand, deque())
            while len(flown) < DEPTH and (index := self._next(hand)) is not None:
                flown.append(self._desk.call(hand, index, self._messages[index]))
                flown[0].since = flown[0].since or time.monotonic()

    def _next(self, hand: WorkerHandle) -> int | None:
        """Return the next message for a worker: one of its own, else one whose worker is not ready."""
        absent = (other.index for other in self._pool.hands if not other.ready)
        for waiting in (self._waiting[hand.index], *map(self._waiting.__getitem__, absent)):
            if waiting and waiting[0] < self._given + self._ahead:
                return waiting.popleft()
        return None

    def _collect(self, hand: WorkerHandle) -> None:
        """Take a worker's available replies, in the order in which it got the messages."""
        flown = self._flights[hand]
        while flown and ray.wait([flown[0].reply], timeout=0)[0]:
            flight, message = flown[0], self._messages[flown[0].index]
            try:
                reply = ray.get(flight.reply)
            except RayTaskError as error:
                if self._desk.debug:
                    raise
                reply = WorkerReply(failed(message, first_line(error)))
            except RayError as error:
                self._lose(hand, f"its worker process ended before it answered ({first_line(error)})")
                return
            flown.popleft()
            if flown:
                flown[0].since = time.monotonic()
            self._done[flight.index] = reply.message
            self._desk.answered(message, reply, flight.state)

    def _interrupt(self) -> None:
        """End the workers that take too long for one message."""
        now = time.monotonic()
        for hand, flown in list(self._flights.items()):
            if self._each is not None and flown and now - flown[0].since > self._each:
                self._lose(hand, f"no reply within {self._each:g} s", LATE)

    def _lose(self, hand: WorkerHandle, reason: str, code: int = FAILED) -> None:
        """Give a worker's current message an Error reply; put its others back; replace the worker."""
        blamed, *others = self._flights.pop(hand)
        self._done[blamed.index] = failed(self._messages[blamed.index], reason, code)
        self._waiting[hand.index].extendleft(flight.index for flight in reversed(others))
        self._pool.replace(hand)

    def _expire(self) -> None:
        """Give every message without a reply an Error reply; replace the workers with such messages."""
        for hand, flown in self._flights.items():
            if flown:
                self._pool.replace(hand)
        self._flights.clear()
        for waiting in self._waiting:
            waiting.clear()
        late = f"no reply within {self._timeout:g} s"
        for index in range(self._given, len(self._messages)):
            if index not in self._done:
                self._done[index] = failed(self._messages[index], late, LATE)

    def _look(self) -> None:
        """Show the progress of the hospital whose reply is next."""
        for hand, flown in self._flights.items():
            if flown and flown[0].index == self._given:
                self._desk.look(hand)
