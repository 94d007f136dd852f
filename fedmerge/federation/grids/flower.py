"""Flower's own Grid, as our server needs it: replies as they come, each of which says whose it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedmerge.federation.grids.simulated import failed

POLL = 0.3  # seconds between two looks for replies; Flower itself waits three


class FlowerGrid(Grid):
    """Another Grid, looked at more often.

    Where a node does not answer, Flower's SuperLink gives the reply itself; here it counts as the node's.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message from the server to one node."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """The nodes that are there now."""
        return list(self.grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages over; returns their ids."""
        return list(self.grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are there."""
        return list(self.grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages now; yields each reply when it comes, for at most ``timeout`` seconds."""
        sent = list(messages)
        ids = self.push_messages(sent) if sent else []
        nodes, refused = dict[str, int](), []
        for message, number in zip(sent, ids or [""] * len(sent), strict=True):
            if number:
                nodes[number] = message.metadata.dst_node_id
            else:
                refused.append(failed(message, "the SuperLink did not take the message"))
        until = None if timeout is None else time.monotonic() + timeout
        return self._replies(nodes, until, refused)

    def _replies(self, nodes: dict[str, int], until: float | None, ready: list[Message]) -> Iterator[Message]:
        """nodes: by the id of each message, to whom it went."""
        yield from ready
        while nodes:
            for reply in self.pull_messages(list(nodes)):
                node = nodes.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    reply.metadata.__dict__["_src_node_id"] = node
                    yield reply
            if nodes and until is not None and time.monotonic() >= until:
                return
            if nodes:
                time.sleep(POLL)
