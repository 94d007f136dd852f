"""A Flower Grid inside this process: no start-up, no serialisation beyond Flower's own records.

It implements Flower's public ``Grid`` interface, so any ClientApp and any Strategy run on it. Messages are
delivered one after another in the order given; a hospital that raises gives an Error reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedmerge.blame import exits_named
from fedmerge.data import Site
from fedmerge.federation.hospital.app import client_app
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.simulated import SimulatedGrid, contexts, debugging, failed, serve


class LocalGrid(SimulatedGrid):
    """Carries messages between a ServerApp and the nodes of one ClientApp in this process.

    ``n_nodes`` hospitals get the partition ids 0 … n_nodes - 1 and keep one Context each for the whole
    run. ``debug`` raises an exception of a hospital instead of turning it into an Error reply.
    """

    def __init__(self, app: ClientApp, n_nodes: int, *, debug: bool | None = None) -> None:
        super().__init__(n_nodes)
        self._app = app
        self._debug = debugging() if debug is None else debug
        self._contexts = contexts(n_nodes)
        self._replies: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver each message and keep its reply; return the message ids."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages; each can be pulled once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Deliver each message when its reply is requested; yield the replies in the same order.

        So one reply is held at a time, however many hospitals there are. ``timeout`` has no effect: a
        hospital in this process cannot be interrupted.
        """
        for message in messages:
            yield from self.pull_messages(self.push_messages([message]))

    def _deliver(self, message: Message) -> str:
        message_id = self.number(message)
        try:
            with exits_named():
                reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            if self._debug:
                raise
            reply = failed(message, error)
        self._replies[message_id] = reply
        return message_id


def simulate(
    app: ServerApp,
    sites: Sequence[Site],
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Run a ServerApp with one hospital per site in this process, until its main function returns.

    ``progress(site name, done steps, total steps)`` is called during each hospital's training.
    """
    hospitals = [Hospital(site, device, _named(progress, site.name)) for site in sites]
    clients = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
    serve(app, LocalGrid(clients, len(sites)))


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
