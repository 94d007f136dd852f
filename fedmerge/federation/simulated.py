"""The common parts of simulated grids: nodes, Contexts, message numbers, Error replies."""

from __future__ import annotations

import os
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedmerge.blame import blamed
from fedmerge.errors import FedMergeError

RUN_ID, SERVER_NODE, FIRST_CLIENT_NODE = 1, 1, 1001
FAILED, LATE = 1, 101  # error codes of a ClientApp that raised, and of one past its time
PENDING = 102  # the error code of a hospital whose people have not decided yet


class SimulatedGrid(Grid):
    """The base of a Flower Grid over ``n_nodes`` simulated nodes, without the transport of messages."""

    def __init__(self, n_nodes: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, RUN_ID, SERVER_NODE
        self._run = Run.create_empty(RUN_ID)
        self._nodes = list(range(FIRST_CLIENT_NODE, FIRST_CLIENT_NODE + n_nodes))
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
        """Return a message from the server to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return all node ids, in the order of the sites."""
        return list(self._nodes)

    def ask(self, messages: list[Message], seconds: float | None) -> Iterable[Message]:
        """Send messages; yield their replies in the same order.

        seconds: the time of each hospital from the start of its turn, because hospitals share processes;
        None: no limit. A grid that cannot interrupt a process ignores it.
        """
        return self.send_and_receive(messages)

    def number(self, message: Message) -> str:
        """Give a message its id; return the id."""
        self._sent += 1
        message.metadata.__dict__["_message_id"] = f"m{self._sent}"
        return f"m{self._sent}"


def contexts(n_nodes: int) -> dict[int, Context]:
    """Return a Context for each node, by node id; partition ids are 0 … n_nodes - 1."""
    return {
        FIRST_CLIENT_NODE + i: Context(
            run_id=RUN_ID,
            node_id=FIRST_CLIENT_NODE + i,
            node_config={"partition-id": i, "num-partitions": n_nodes},
            state=RecordDict(),
            run_config={},
        )
        for i in range(n_nodes)
    }


def failed(message: Message, why: Exception | str, code: int = FAILED) -> Message:
    """Return the Error reply to a message whose hospital raised, or did not reply for another reason."""
    plain = str(why) if isinstance(why, FedMergeError | str) else blamed(why)
    reason = plain or f"{type(why).__name__}: {why}"
    return Message(Error(code=code, reason=reason), reply_to=message)


def debugging() -> bool:
    """Return whether exceptions of hospitals are raised, with their traceback (FEDMERGE_DEBUG)."""
    return bool(os.environ.get("FEDMERGE_DEBUG"))


def serve(app: ServerApp, grid: Grid) -> None:
    """Run a ServerApp on a grid until its main function returns."""
    server = Context(run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={})
    app(grid=grid, context=server)
