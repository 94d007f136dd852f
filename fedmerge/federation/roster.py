"""Who takes part: the hospitals behind the node ids, in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge.errors import FedMergeError
from fedmerge.federation.grids.simulated import PENDING
from fedmerge.federation.records import metrics_of, reason_of, request

POLL = 0.5  # seconds between two looks for nodes that have come
AGAIN = 15.0  # seconds after which a hospital whose people have not decided yet is asked again


@dataclass(frozen=True)
class Member:
    """One hospital as the server knows it: numbers, never images."""

    node_id: int
    name: str
    examples: int
    validation: int
    class_counts: tuple[int, ...]

    def held(self, split: Literal["val", "train"]) -> int:
        """How many images it has in a split."""
        return self.validation if split == "val" else self.examples


class Roster(tuple[Member, ...]):
    """The hospitals in the order of their names; every reduction over replies follows it.

    Flower gives nodes random ids and hands replies over as they arrive, so an order of our own is what
    makes two runs equal.
    """

    def named(self, names: Iterable[str] | None) -> Roster:
        """Only the hospitals with these names; all of them for None."""
        if names is None:
            return self
        wanted = set(names)
        return Roster(member for member in self if member.name in wanted)

    def in_order(self, replies: Iterable[Message]) -> Iterator[tuple[Member, Message | None]]:
        """Pair each hospital, in roster order, with its reply, or with None if it did not answer.

        Replies are read as they are needed: where they arrive in order, one at a time is held.
        """
        arriving, early = iter(replies), dict[int, Message]()
        for member in self:
            while member.node_id not in early and (reply := next(arriving, None)) is not None:
                early[reply.metadata.src_node_id] = reply
            reply = None
            yield member, early.pop(member.node_id, None)


@dataclass
class _Heard:
    """What the nodes have said so far: hospitals by name, and the reasons of those that cannot take part.

    admitted: under which name each node was let in; None where nodes are nobody's in particular.
    """

    admitted: Mapping[int, str] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)
    waiting: dict[int, str] = field(default_factory=dict)  # what those say whose people have not decided yet
    asked_again: float = 0.0

    def listen(self, replies: Iterable[Message], wanted: Sequence[str] | None) -> None:
        for reply in replies:
            node = reply.metadata.src_node_id
            self.waiting.pop(node, None)
            if reply.has_error():
                name = "" if self.admitted is None else f"{self.admitted.get(node, 'a node')}: "
                reason = name + reason_of(reply)
                if reply.error.code == PENDING:
                    self.waiting[node] = reason
                else:
                    self.reasons.append(reason)
                continue
            member = _member(reply)
            if wanted is not None and member.name not in wanted:
                continue
            known = member.name if self.admitted is None else self.admitted.get(member.node_id)
            if known != member.name:
                self.reasons.append(
                    f"a node that was admitted as '{known}' calls itself '{member.name}': it is not heard"
                )
                continue
            if member.name in self.members:
                raise FedMergeError(
                    f"two hospitals call themselves '{member.name}': give each site a name of its own."
                )
            self.members[member.name] = member

    def to_ask(self, nodes: Iterable[int]) -> list[int]:
        """The nodes that were not asked yet, and now and then those whose people had not decided."""
        new = [node for node in nodes if node not in self.asked]
        self.asked.update(new)
        if self.waiting and time.monotonic() - self.asked_again >= AGAIN:
            new += [node for node in self.waiting if node not in new]
        if new:
            self.asked_again = time.monotonic()
        return new

    def said(self) -> str:
        """Why nodes do not take part, in one sentence or more."""
        return "; ".join(dict.fromkeys([*self.reasons, *self.waiting.values()]))

    def lacking(self, wanted: Sequence[str]) -> list[str]:
        return [name for name in wanted if name not in self.members]


def greet(
    grid: Grid,
    wanted: Sequence[str] | None = None,
    patience: float = 0.0,
    admitted: Mapping[int, str] | None = None,
    told: Mapping[str, Any] | None = None,
) -> tuple[Roster, dict[str, str]]:
    """Ask every node who it is; returns those that take part, and why each other wanted hospital does not.

    wanted: the hospitals of this federation; nodes of others are left alone. None: all that answer. patience:
    seconds to wait for wanted hospitals, whose nodes may come later. admitted: the name under which each node
    was let in, by node id; one that calls itself otherwise is not heard. told: what the hospitals are told of
    the run (``policy.proposal``); one whose people have not decided about it is asked again until the
    patience is over. Raises FedMergeError if nobody answers, at once where every node says why it cannot, or
    if two have one name.
    """
    heard, until = _Heard(admitted), time.monotonic() + patience
    while True:
        new = heard.to_ask(grid.get_node_ids())
        if new:
            left = max(until - time.monotonic(), POLL) if patience else None
            questions = [request("query", node, "greeting", dict(told or {}), None) for node in new]
            heard.listen(grid.send_and_receive(questions, timeout=left), wanted)
        missing = heard.lacking(wanted or ())
        nobody_can = bool(heard.reasons) and not heard.members and not heard.waiting
        if not missing or nobody_can or time.monotonic() >= until:
            break
        time.sleep(POLL)
    reasons = heard.said()
    if not heard.members:
        said = f" What its nodes said: {reasons}" if reasons else ""
        raise FedMergeError(
            f"no hospital answered the server: start at least one, and check its address.{said}"
        )
    roster = Roster(sorted(heard.members.values(), key=lambda member: member.name))
    return roster, dict.fromkeys(missing, "its node did not come" + (f" ({reasons})" if reasons else ""))


def _member(reply: Message) -> Member:
    metrics = metrics_of(reply)
    return Member(
        node_id=reply.metadata.src_node_id,
        name=str(reply.content["site"]["name"]),
        examples=int(metrics["num-examples"]),
        validation=int(metrics["num-validation"]),
        class_counts=tuple(metrics["class-counts"]),
    )
