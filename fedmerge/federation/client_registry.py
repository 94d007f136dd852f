"""The registry of a run's clients: which hospital each node id belongs to, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message


@dataclass(frozen=True)
class Client:
    """What the server knows of one hospital: numbers, never images.

    spacing: of pixels, as the greeting says it (``schema.replies.Greeting``); empty where it does not.
    """

    node_id: int
    name: str
    examples: int
    validation: int
    class_counts: tuple[int, ...]
    spacing: tuple[float, ...] = ()

    def held(self, split: Literal["val", "train"]) -> int:
        """Return the number of images in a split."""
        return self.validation if split == "val" else self.examples


class ClientRegistry(tuple[Client, ...]):
    """The hospitals in the order of their names; every reduction over replies follows this order.

    Flower gives nodes random ids and hands replies over as they arrive; a fixed order makes two runs equal.
    """

    def named(self, names: Iterable[str] | None) -> ClientRegistry:
        """Return only the hospitals with these names; all of them for None."""
        if names is None:
            return self
        wanted = set(names)
        return ClientRegistry(client for client in self if client.name in wanted)

    def in_order(self, replies: Iterable[Message]) -> Iterator[tuple[Client, Message | None]]:
        """Yield each hospital in registry order with its reply, or with None if it did not reply.

        Replies are read as needed: if they arrive in order, one at a time is held.
        """
        arriving, early = iter(replies), dict[int, Message]()
        for client in self:
            while client.node_id not in early and (reply_message := next(arriving, None)) is not None:
                early[reply_message.metadata.src_node_id] = reply_message
            reply_message = None
            yield client, early.pop(client.node_id, None)
