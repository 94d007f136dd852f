"""One request to several hospitals, and the replies to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.reading import read_reply
from fedmerge.federation.messages.records import reason_of
from fedmerge.federation.messages.replies import ReplyBody, Trained
from fedmerge.federation.messages.secure import TrainedSecretly
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.messages.tensors import NO_TENSORS, Refused, Tensors
from fedmerge.federation.server.failures import Wrong
from fedmerge.federation.simulated import LATE
from fedmerge.models.state import State


@dataclass(frozen=True)
class Reply:
    """A usable reply: the client, the contents, and the arrays, where there are any."""

    client: Client
    body: ReplyBody
    state: State | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers by their declared names, as in the history."""
        return self.body.row()


def usable(reply: Reply) -> str | None:
    """Accept every reply: the check of requests that need none."""
    return None


def nothing(client: Client, attempt: int) -> str:
    """Return the words for no fault injection."""
    return ""


def no_tensors(client: Client) -> Tensors:
    """Return the schema of a reply without arrays."""
    return NO_TENSORS


@dataclass(frozen=True)
class Request:
    """A request to the hospitals of ``clients`` in one round and phase.

    kind: the message type, which selects the schema of the replies. ask: the message to a hospital at its
    first, second, … attempt. tensors: the arrays that a hospital's reply must have. check: why a reply cannot
    be used, in words, or None. injected: the faults injected into a hospital at an attempt, in words. secret:
    whether the replies are masked, so that nothing is known of one hospital.
    """

    kind: str
    round: int
    phase: str
    clients: ClientRegistry
    ask: Callable[[Client, int], Message]
    tensors: Callable[[Client], Tensors] = no_tensors
    check: Callable[[Reply], str | None] = usable
    injected: Callable[[Client, int], str] = nothing
    secret: bool = False

    def messages(self) -> list[Message]:
        """Return the first message to each hospital."""
        return [self.ask(client, 1) for client in self.clients]


def read(
    request: Request, client: Client, reply_message: Message | None, deadline: float | None = None
) -> Reply | Wrong:
    """Return the reply in a message, or why it cannot be used. Never raises, whatever the message is.

    Names and numbers are read first, then the deadline is checked; arrays are read last.
    """
    if reply_message is None:
        return late(None, deadline) or Wrong("silent", "no answer")
    if reply_message.has_error():
        return Wrong("late" if reply_message.error.code == LATE else "error", reason_of(reply_message))
    try:
        body, record = read_reply(reply_message, MESSAGES[request.kind].reply)
        wrong = late(body, deadline)
        if wrong is not None:
            return wrong
        refused = body.against(client)
        if refused is not None:
            return Wrong("refused", refused)
        reply = Reply(client, body, request.tensors(client).read(record, keep=False))
    except Refused as error:
        return Wrong("refused", str(error))
    except Exception as error:  # Flower and numpy may raise anything for malformed data
        return Wrong("refused", f"its answer cannot be read ({type(error).__name__})")
    refused = request.check(reply)
    return reply if refused is None else Wrong("refused", refused)


def late(body: ReplyBody | None, deadline: float | None) -> Wrong | None:
    """Return why a reply (None: no reply came) is too late, or None.

    The hospital's own clock counts: the ``seconds`` of its training as it reports them, plus the ``delay`` of
    fault injection. So a simulation in which hospitals wait for each other is judged as if each had a machine
    of its own. No reply in the time that the grid waits is late, too.
    """
    if deadline is None:
        return None
    told = math.inf if body is None else 0.0
    if isinstance(body, Trained | TrainedSecretly):
        told = body.seconds + body.delay
    if told <= deadline:
        return None
    if math.isinf(told):
        return Wrong("late", f"no reply within the deadline of {deadline:g} s")
    return Wrong("late", f"its answer took {told:.1f} s, more than the deadline of {deadline:g} s")
