"""Wait for the clients of a run: hear who they are, and refuse those that cannot take part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.reading import read_reply
from fedmerge.federation.messages.records import reason_of, request_message
from fedmerge.federation.messages.replies import Greeting
from fedmerge.federation.messages.tensors import Refused
from fedmerge.federation.server.failures import Wrong
from fedmerge.federation.simulated import PENDING, SimulatedGrid

POLL = 0.5  # seconds between two checks for connected nodes
AGAIN = 15.0  # seconds until a hospital whose people have not decided yet is asked again
OUTSIDE = "it was not admitted when the run began, or its admission was taken back: it was not waited for"
LONGEST = 120.0  # the longest pause between two such requests; the pause grows each time


@dataclass
class _Heard:
    """The replies of the nodes so far: the hospitals by name, and why other nodes cannot take part.

    wanted: the hospitals of this federation; None: all. admitted: the name under which each node was
    admitted; None where nodes are not admitted. n_classes, task: of the model. wrong: why a node cannot take
    part, by name; nameless: the same by node id, for nodes without an admitted name in ``wanted``.
    """

    wanted: Sequence[str] | None = None
    admitted: Mapping[int, str] | None = None
    n_classes: int | None = None
    task: str | None = None
    clients: dict[str, Client] = field(default_factory=dict)
    wrong: dict[str, Wrong] = field(default_factory=dict)
    nameless: dict[int, Wrong] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)  # nodes whose people have not decided yet
    asked_at: float = 0.0
    pause: float = 0.0

    def listen(self, replies: Iterable[Message]) -> None:
        for reply_message in replies:
            node = reply_message.metadata.src_node_id
            self._forget(node)
            if reply_message.has_error() and reply_message.error.code == PENDING:
                self.waiting.add(node)
            heard = self._member(node, reply_message)
            if isinstance(heard, Wrong):
                self._note(node, heard)
            elif heard is not None:
                self.clients[heard.name] = heard

    def to_ask(self, nodes: Iterable[int]) -> list[int]:
        """Return the nodes not asked yet, and after each pause those whose people had not decided."""
        new = [node for node in nodes if node not in self.asked]
        self.asked.update(new)
        if self.waiting and time.monotonic() - self.asked_at >= self.pause:
            new += sorted(self.waiting)
        if new:
            self.asked_at, self.pause = time.monotonic(), min(max(AGAIN, self.pause * 1.2), LONGEST)
        return new

    @property
    def failed(self) -> dict[int, Wrong]:
        """The nodes that replied with an error of their own, and not that their people decide."""
        return {
            node: wrong
            for node, wrong in self.nameless.items()
            if wrong.kind == "error" and node not in self.waiting
        }

    @property
    def missing(self) -> list[str]:
        """The wanted hospitals that do not take part yet."""
        return [name for name in self.wanted or () if name not in self.clients]

    @property
    def awaited(self) -> list[str]:
        """The missing hospitals that may still come: admitted, and silent or undecided so far."""
        undecided = {(self.admitted or {}).get(node) for node in self.waiting}
        settled = self.wrong.keys() - undecided  # nobody asks them again
        return [name for name in self.missing if self._is_let_in(name) and name not in settled]

    @property
    def nobody_can(self) -> bool:
        """Whether as many nodes as are wanted cannot take part, while none can and none is undecided."""
        said = len(self.wrong) + len(self.nameless)
        return not self.clients and not self.waiting and said >= max(1, len(self.wanted or ()))

    @property
    def reasons(self) -> str:
        """The reasons why nodes cannot take part, in one line."""
        return "; ".join(dict.fromkeys(w.reason for w in [*self.wrong.values(), *self.nameless.values()]))

    def absent(self) -> dict[str, Wrong]:
        """Return, for each hospital or node that does not take part, the reason."""
        others = "; ".join(dict.fromkeys(wrong.reason for wrong in self.nameless.values()))
        refused = any(wrong.kind == "refused" for wrong in self.nameless.values())
        more = f" ({others})" if others else ""
        silent = Wrong("refused" if refused else "silent", f"its node did not come{more}")
        outside = Wrong("refused", f"{OUTSIDE}{more}")
        found = {name: silent if self._is_let_in(name) else outside for name in self.missing}
        found |= {name: wrong for name, wrong in self.wrong.items() if name not in self.clients}
        if self.wanted is None:
            found |= {f"node {node}": wrong for node, wrong in self.nameless.items()}
        return found

    def _member(self, node: int, reply_message: Message) -> Client | Wrong | None:
        """Return a node's hospital, or why it cannot take part; None for a hospital of another federation."""
        if reply_message.has_error():
            return Wrong("error", reason_of(reply_message))
        try:
            said, arrays = read_reply(reply_message, Greeting)
        except Refused as error:
            return Wrong("refused", f"its greeting cannot be taken: {error}")
        if not self._is_wanted(said.name):
            return None
        if arrays is not None:
            return Wrong("refused", "its greeting cannot be taken: it has arrays")
        if self.n_classes is not None and len(said.class_counts) != self.n_classes:
            return Wrong(
                "refused",
                f"it counts images of {len(said.class_counts)} classes, but the model has {self.n_classes}",
            )
        if self.task is not None and said.task != self.task:
            return Wrong("refused", f"its labels are for task {said.task}, but the model is for {self.task}")
        known = said.name if self.admitted is None else self.admitted.get(node)
        if known != said.name:
            return Wrong(
                "refused",
                f"a node that was admitted as '{known}' calls itself '{said.name}': it is not heard",
            )
        if said.name in self.clients:
            if self.admitted is None:  # nobody can tell which of them is the hospital
                raise FedMergeError(
                    f"two hospitals call themselves '{said.name}': give each site a name of its own."
                )
            return Wrong("refused", f"another node that was admitted as '{said.name}' takes part already")
        spacing = tuple(said.spacing or ())
        return Client(node, said.name, said.examples, said.validation, tuple(said.class_counts), spacing)

    def _forget(self, node: int) -> None:
        """Forget what a node replied before."""
        self.waiting.discard(node)
        self.nameless.pop(node, None)
        self.wrong.pop("" if self.admitted is None else self.admitted.get(node, ""), None)

    def _note(self, node: int, wrong: Wrong) -> None:
        name = None if self.admitted is None else self.admitted.get(node)
        if name is not None and self._is_wanted(name):
            self.wrong[name] = wrong
        else:
            self.nameless[node] = wrong

    def _is_let_in(self, name: str) -> bool:
        return self.admitted is None or name in self.admitted.values()

    def _is_wanted(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted


def wait_for_clients(
    grid: Grid,
    wanted: Sequence[str] | None = None,
    patience: float = 0.0,
    admitted: Mapping[int, str] | None = None,
    n_classes: int | None = None,
    told: Mapping[str, Any] | None = None,
    task: str | None = None,
    failed: Callable[[int, Wrong, int], bool] = lambda node, wrong, attempt: False,
) -> tuple[ClientRegistry, dict[str, Wrong]]:
    """Ask every node for its hospital; return those that take part, and why the others do not.

    A node whose greeting does not fit the schema is left out, under the name it was admitted by.

    wanted: the hospitals of this federation; nodes of others are left alone. None: all that reply. patience:
    seconds to wait for wanted hospitals, whose nodes may come later. admitted: the name under which each node
    was admitted, by node id; a node that gives another name is left out. n_classes: the number of classes
    that each hospital must count; task: that of its labels. told: what the hospitals are told of the run
    (``policy.proposal``); one whose people have not decided about it is asked again until the patience is
    over. failed: called in a simulation with each node whose attempt ended in an error, whose process died
    for instance; it says whether the node is asked again. Raises FedMergeError if no hospital can take part
    (at once if as many nodes as are wanted say why they cannot), or if two have one name and nodes are not
    admitted.
    """
    heard, until = _Heard(wanted, admitted, n_classes, task), time.monotonic() + patience
    while True:
        new = heard.to_ask(grid.get_node_ids())
        if new:
            left = max(until - time.monotonic(), POLL) if patience else None
            attempt = 0
            while new:
                requests = [
                    request_message("query", node, "greeting", dict(told or {}), None) for node in new
                ]
                heard.listen(grid.send_and_receive(requests, timeout=left))
                attempt += 1
                wrong = heard.failed if isinstance(grid, SimulatedGrid) else {}
                new = [node for node in new if node in wrong and failed(node, wrong[node], attempt)]
        if not heard.awaited or heard.nobody_can or time.monotonic() >= until:
            break
        time.sleep(POLL)
    if not heard.clients:
        said = f" What its nodes said: {heard.reasons}" if heard.reasons else ""
        raise FedMergeError(
            f"no hospital answered the server: start at least one, and check its address.{said}"
        )
    clients = ClientRegistry(sorted(heard.clients.values(), key=lambda client: client.name))
    return clients, heard.absent()
