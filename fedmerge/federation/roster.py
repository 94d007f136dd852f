"""Who takes part: the hospitals behind the node ids, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge.errors import FedMergeError
from fedmerge.federation.records import metrics_of, request


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
        """Pair each hospital, in roster order, with its reply, or with None if it did not answer."""
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        for member in self:
            yield member, by_node.get(member.node_id)


def greet(grid: Grid) -> Roster:
    """Ask every node who it is. Raises FedMergeError if none answers or two have one name."""
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive(request("query", node, "greeting", {}, None) for node in nodes)
    members = [_member(reply) for reply in replies if not reply.has_error()]
    if not members:
        raise FedMergeError("no hospital answered the server: start at least one, and check its address.")
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise FedMergeError(f"two hospitals call themselves '{name}': give each site a name of its own.")
    return Roster(sorted(members, key=lambda member: member.name))


def _member(reply: Message) -> Member:
    metrics = metrics_of(reply)
    return Member(
        node_id=reply.metadata.src_node_id,
        name=str(reply.content["site"]["name"]),
        examples=int(metrics["num-examples"]),
        validation=int(metrics["num-validation"]),
        class_counts=tuple(metrics["class-counts"]),
    )
