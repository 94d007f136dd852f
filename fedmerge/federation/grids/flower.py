"""Flower's own Grid for our server: replies are yielded as they come, each with its node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedmerge.federation.messages.records import reason_of
from fedmerge.federation.simulated import failed

POLL = 0.3  # seconds between two checks for replies; Flower itself waits three
LOOK = 5.0  # seconds between two checks for lost messages
AWAY = {
    ErrorCode.NODE_UNAVAILABLE: "its node is away: it is asked again when it is back",
    ErrorCode.MESSAGE_UNAVAILABLE: "message or answer was lost at the SuperLink: it is asked again",
}
RESENT = 10  # the most times that a message is sent again


@dataclass
class Sent:
    """A sent message. gone: when its node was found unavailable, and the error reply; None before."""

    message: Message
    began: float
    gone: tuple[float, Message] | None = None
    resent: int = 0

    @property
    def node(self) -> int:
        """The node id of the receiver."""
        return int(self.message.metadata.dst_node_id)


class FlowerGrid(Grid):
    """A wrapper of another Grid that polls more often and waits for nodes that restart.

    If a node is unavailable, Flower's SuperLink makes an error reply; here it counts as the node's. A message
    is sent again when its node is back after a restart, and when the SuperLink has lost message or reply.
    away: the seconds to wait for that in all; a node that did not come back in this time is not waited for
    again until it has replied once. lost: returns, of some message ids, those that were lost. names:
    hospitals by node, for the log. A node whose admission was revoked (``revoked``) fails at once.
    """

    def __init__(
        self,
        grid: Grid,
        away: float = 0.0,
        lost: Callable[[Sequence[str]], set[str]] = lambda ids: set(),
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.grid, self.away, self.lost, self.names = grid, away, lost, names or {}
        self._given_up: set[int] = set()

    def revoked(self, nodes: Iterable[int]) -> set[int]:
        """Return the nodes whose admission was revoked; here none."""
        return set()

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
        """Return a message from the server to one node."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are available now."""
        return list(self.grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return their ids."""
        return list(self.grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the available replies to these messages."""
        return list(self.grid.pull_messages(message_ids))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages now; yield each reply when it comes, for at most ``timeout`` seconds."""
        on_the_way: dict[str, Sent] = {}
        refused = self._send([Sent(message, time.monotonic()) for message in messages], on_the_way)
        until = None if timeout is None else time.monotonic() + timeout
        return self._replies(on_the_way, until, refused)

    def _send(self, sent: list[Sent], on_the_way: dict[str, Sent]) -> list[Message]:
        """Send messages; return error replies for those that were not accepted."""
        revoked = self.revoked(each.node for each in sent)
        refused = [_revoked(each) for each in sent if each.node in revoked]
        sent = [each for each in sent if each.node not in revoked]
        for each in self._push(self._push(sent, on_the_way), on_the_way):
            refused.append(failed(each.message, "the SuperLink did not take the message"))
        return refused

    def _push(self, sent: list[Sent], on_the_way: dict[str, Sent]) -> list[Sent]:
        """Push messages; return those that were not accepted, as new messages.

        A SuperLink refuses a message that it has, which is what a call that is repeated may find.
        """
        ids = self.push_messages([each.message for each in sent]) if sent else []
        refused = []
        for each, number in zip(sent, ids or [""] * len(sent), strict=True):
            if number:
                on_the_way[number] = each
            else:
                each.message = _copy(each.message)
                refused.append(each)
        return refused

    def _replies(
        self, on_the_way: dict[str, Sent], until: float | None, ready: list[Message]
    ) -> Iterator[Message]:
        yield from ready
        away: list[Sent] = []
        looked = time.monotonic()
        while on_the_way or away:
            for reply_message in self.pull_messages(list(on_the_way)) if on_the_way else ():
                sent = on_the_way.pop(reply_message.metadata.reply_to_message_id, None)
                if sent is None:
                    continue
                reply_message.metadata.__dict__["_src_node_id"] = sent.node
                if self._is_away(sent, reply_message):
                    away.append(sent)
                else:
                    yield self._heard(sent, reply_message)
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                yield from self._out(away, on_the_way)
                away += self._were_lost(on_the_way)
            yield from self._again(away, on_the_way)
            if (on_the_way or away) and until is not None and time.monotonic() >= until:
                return
            if on_the_way or away:
                time.sleep(POLL)

    def _is_away(self, sent: Sent, reply_message: Message) -> bool:
        """Check whether a reply reports an unavailable node, or a message, that is to be waited for."""
        words = AWAY.get(reply_message.error.code) if reply_message.has_error() else None
        if words is None or sent.node in self._given_up:
            return False
        began = sent.gone[0] if sent.gone else time.monotonic()
        sent.gone = began, reply_message
        if not self.away:
            return False
        self._say(sent, words, WARNING)
        return True

    def _were_lost(self, on_the_way: dict[str, Sent]) -> list[Sent]:
        """Take out the messages that were lost with a restart of their node; return them."""
        found = []
        for number in self.lost(list(on_the_way)) if on_the_way and self.away else ():
            sent = on_the_way.pop(number)
            words = "its node was started anew before it answered, or its answer was lost"
            why = failed(sent.message, words)
            why.metadata.__dict__["_src_node_id"] = sent.node
            sent.gone = (sent.gone[0] if sent.gone else time.monotonic()), why
            self._say(sent, f"{words}: it is asked again", WARNING)
            found.append(sent)
        return found

    def _out(self, away: list[Sent], on_the_way: dict[str, Sent]) -> Iterator[Message]:
        """Take out the messages to revoked nodes; yield error replies for them."""
        revoked = self.revoked(sent.node for sent in [*away, *on_the_way.values()])
        for number in [number for number, sent in on_the_way.items() if sent.node in revoked]:
            sent = on_the_way.pop(number)
            yield self._heard(sent, _revoked(sent))
        for sent in [sent for sent in away if sent.node in revoked]:
            away.remove(sent)
            yield self._heard(sent, _revoked(sent))

    def _again(self, away: list[Sent], on_the_way: dict[str, Sent]) -> Iterator[Message]:
        """Send messages again to nodes that are back; yield error replies for those away too long."""
        there = set(self.get_node_ids()) if away else set()
        for sent in list(away):
            assert sent.gone is not None
            if time.monotonic() - sent.gone[0] > self.away or sent.resent >= RESENT:
                away.remove(sent)
                self._given_up.add(sent.node)
                yield self._heard(sent, sent.gone[1])
            elif sent.node in there:
                away.remove(sent)
                sent.resent += 1
                sent.message = _copy(sent.message)
                yield from self._send([sent], on_the_way)

    def _heard(self, sent: Sent, reply_message: Message) -> Message:
        """Log a reply and return it."""
        took = f"after {time.monotonic() - sent.began:.1f} s"
        if reply_message.has_error():
            self._say(sent, f"no answer {took}: {' '.join(reason_of(reply_message).split())[:500]}", WARNING)
        else:
            self._given_up.discard(sent.node)
            self._say(sent, f"answered {took}")
        return reply_message

    def _say(self, sent: Sent, what: str, level: int = INFO) -> None:
        about = sent.message.metadata
        whose = self.names.get(sent.node, f"node-{sent.node}")
        log(level, "[RUN %s, ROUND %s] [%s] %s: %s",
            self.run.run_id, about.group_id or "-", whose, about.message_type, what)  # fmt: skip


def _copy(message: Message) -> Message:
    """Return a new message with the same content for the same node."""
    about = message.metadata
    return Message(message.content, about.dst_node_id, about.message_type, group_id=about.group_id)


def _revoked(sent: Sent) -> Message:
    reply_message = failed(
        sent.message, "its admission was taken back: the hospital is out of the federation"
    )
    reply_message.metadata.__dict__["_src_node_id"] = sent.node
    return reply_message
