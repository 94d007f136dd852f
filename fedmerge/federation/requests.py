"""One request to several hospitals, and what a reply to it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmerge.federation.clients import Client, ClientRegistry
from fedmerge.federation.failures import Wrong
from fedmerge.federation.grids.simulated import LATE
from fedmerge.federation.records import reason_of
from fedmerge.federation.schema.messages import MESSAGES
from fedmerge.federation.schema.reading import read_reply
from fedmerge.federation.schema.replies import Answered, Trained
from fedmerge.federation.schema.secure import TrainedSecretly
from fedmerge.federation.schema.tensors import NO_TENSORS, Refused, Tensors
from fedmerge.models.state import State


@dataclass(frozen=True)
class Reply:
    """A usable reply: whose, what it says, and the weights where the hospital trained."""

    client: Client
    said: Answered
    state: State | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Its numbers by their declared names, as they stand in the history."""
        return self.said.row()


def usable(reply: Reply) -> str | None:
    """The check of replies that need none."""
    return None


def nothing(client: Client, attempt: int) -> str:
    """What fault injection does that does nothing."""
    return ""


def no_tensors(client: Client) -> Tensors:
    """The arrays of a reply without any."""
    return NO_TENSORS


@dataclass(frozen=True)
class Request:
    """What is asked of the hospitals of ``clients``, and when.

    kind: the message type, by which ``schema`` knows what an answer may say. ask: the message to a hospital
    at its first, second, … attempt. tensors: the arrays that a hospital's answer must have. check: why an
    answer cannot be used, in words, or None. injected: what fault injection does to a hospital at an attempt,
    in words. secret: whether what the answers say is under masks, so that there is nothing to tell of one
    hospital.
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
        """The first message to each hospital."""
        return [self.ask(client, 1) for client in self.clients]


def read(
    request: Request, client: Client, reply_message: Message | None, deadline: float | None = None
) -> Reply | Wrong:
    """Return what a message says, or why it cannot be used. Whatever the message is, nothing is raised.

    Names and numbers come first, then the deadline, and the arrays, where all else is right, last.
    """
    if reply_message is None:
        return late(None, deadline) or Wrong("silent", "no answer")
    if reply_message.has_error():
        return Wrong("late" if reply_message.error.code == LATE else "error", reason_of(reply_message))
    try:
        said, record = read_reply(reply_message, MESSAGES[request.kind].reply)
        wrong = late(said, deadline)
        if wrong is not None:
            return wrong
        refused = said.against(client)
        if refused is not None:
            return Wrong("refused", refused)
        reply = Reply(client, said, request.tensors(client).read(record, keep=False))
    except Refused as error:
        return Wrong("refused", str(error))
    except Exception as error:  # whatever Flower or numpy make of garbage
        return Wrong("refused", f"its answer cannot be read ({type(error).__name__})")
    refused = request.check(reply)
    return reply if refused is None else Wrong("refused", refused)


def late(said: Answered | None, deadline: float | None) -> Wrong | None:
    """Why an answer (None: nothing came) is too late, or None.

    What counts is the hospital's own clock: the ``seconds`` that it says its training took, and the
    ``delay`` of fault injection. So a simulation in which hospitals wait for each other is judged as if each
    had a machine of its own. Nothing at all, by the time that the grid waits, is late, too.
    """
    if deadline is None:
        return None
    told = math.inf if said is None else 0.0
    if isinstance(said, Trained | TrainedSecretly):
        told = said.seconds + said.delay
    if told <= deadline:
        return None
    if math.isinf(told):
        return Wrong("late", f"no answer within the deadline of {deadline:g} s")
    return Wrong("late", f"its answer took {told:.1f} s, more than the deadline of {deadline:g} s")
