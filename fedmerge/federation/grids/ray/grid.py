"""A Flower Grid over worker processes of Ray: a hospital stays with the worker that has loaded it.

Weights go into Ray's object store once for all hospitals that get the same, and come back through it; on one
machine they are not copied on the way. Replies come in the order of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message

from fedmerge.federation.grids.ray.dispatcher import Dispatcher
from fedmerge.federation.grids.ray.pool import Pool
from fedmerge.federation.grids.ray.transfer import Transfer
from fedmerge.federation.grids.ray.worker import Opening
from fedmerge.federation.simulated import SimulatedGrid, debugging


class RayGrid(SimulatedGrid):
    """Carries messages between a ServerApp and one hospital per ``Opening``, in the workers of ``pool``.

    sizes: the work of each hospital, in any unit, so that workers get equal shares of it. progress: called
    with (number of the hospital, steps done, steps in all). debug: raise a hospital's exception. ahead: see
    ``Transfer``; by default four messages per worker.
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
        homes = shares(sizes or [1.0] * len(openings), pool.count)
        self.pool = pool
        self.dispatcher = Dispatcher(
            dict(zip(self._nodes, openings, strict=True)),
            dict(zip(self._nodes, homes, strict=True)),
            progress,
            debugging() if debug is None else debug,
        )
        self._ahead = 4 * pool.count if ahead is None else ahead
        self._pushed: list[Transfer] = []
        pool.gather()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send the messages; return their ids."""
        sent = list(messages)
        ids = [self.number(message) for message in sent]
        self._pushed.append(Transfer(self.pool, self.dispatcher, sent, len(sent)))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the available replies to these messages; each can be pulled once."""
        ids = list(message_ids)
        return [reply for transfer in self._pushed for reply in transfer.pull(ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Transfer:
        """Send the messages; return their replies in the same order, each as soon as it is available.

        After ``timeout`` seconds every message without a reply is answered by an Error.
        """
        sent = list(messages)
        for message in sent:
            self.number(message)
        return Transfer(self.pool, self.dispatcher, sent, self._ahead, timeout=timeout)

    def ask(self, messages: list[Message], seconds: float | None) -> Transfer:
        """See ``SimulatedGrid``. A worker that takes longer is replaced, and its message gets an Error."""
        for message in messages:
            self.number(message)
        return Transfer(self.pool, self.dispatcher, messages, self._ahead, each=seconds)


def shares(sizes: Sequence[float], workers: int) -> list[int]:
    """Assign each hospital, in order, to the worker with the least work so far; return the workers' numbers.

    So workers have nearly equal shares of the work, and replies come nearly in the order of the hospitals.
    """
    loads = [0.0] * workers
    homes = []
    for size in sizes:
        home = loads.index(min(loads))
        loads[home] += size
        homes.append(home)
    return homes
