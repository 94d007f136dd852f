"""A Flower Grid inside this process: no start-up, no serialisation beyond Flower's own records.

It implements Flower's public ``Grid`` interface, so any ClientApp and any Strategy run on it. Messages are
delivered one after another in the order given; a hospital that raises answers with an Error message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.client import Hospital, client_app

RUN_ID, SERVER_NODE, FIRST_CLIENT_NODE = 1, 1, 1001
FAILED = 1  # error code of a ClientApp that raised


class LocalGrid(Grid):
    """Carries messages between a ServerApp and the nodes of one ClientApp in this process.

    ``n_nodes`` hospitals get the partition ids 0 … n_nodes - 1 and keep one Context each for the whole
    run. ``debug`` lets an exception of a hospital through instead of turning it into an Error reply.
    """

    def __init__(self, app: ClientApp, n_nodes: int, *, debug: bool | None = None) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, RUN_ID, SERVER_NODE
        self._app = app
        self._run = Run.create_empty(RUN_ID)
        self._debug = bool(os.environ.get("FEDMERGE_DEBUG")) if debug is None else debug
        self._contexts = {
            FIRST_CLIENT_NODE + i: Context(
                run_id=RUN_ID,
                node_id=FIRST_CLIENT_NODE + i,
                node_config={"partition-id": i, "num-partitions": n_nodes},
                state=RecordDict(),
                run_config={},
            )
            for i in range(n_nodes)
        }
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message from the server to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All node ids, in the order of the sites."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver each message and keep its reply; returns the message ids."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages; each can be pulled once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Deliver each message when its reply is asked for; yield the replies in the same order.

        So one reply is held at a time, however many hospitals there are. ``timeout`` has no effect: a
        hospital in this process cannot be interrupted.
        """
        for message in messages:
            yield from self.pull_messages(self.push_messages([message]))

    def _deliver(self, message: Message) -> str:
        self._sent += 1
        message_id = f"m{self._sent}"
        message.metadata.__dict__["_message_id"] = message_id
        context = self._contexts[message.metadata.dst_node_id]
        try:
            answer = self._app(message, context)
        except Exception as error:
            if self._debug:
                raise
            reason = str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
            answer = Message(Error(code=FAILED, reason=reason), reply_to=message)
        self._replies[message_id] = answer
        return message_id


def simulate(
    app: ServerApp,
    sites: Sequence[Site],
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Run a ServerApp with one hospital a site in this process, until its main function returns.

    ``progress(site name, done steps, total steps)`` follows each hospital's training.
    """
    hospitals = [Hospital(site, device, _named(progress, site.name)) for site in sites]
    clients = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
    grid = LocalGrid(clients, len(sites))
    server = Context(run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={})
    app(grid=grid, context=server)


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
