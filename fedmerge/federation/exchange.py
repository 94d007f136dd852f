"""One question to several hospitals, and what a reply to it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmerge.federation.records import metrics_of, reason_of, take_state
from fedmerge.federation.roster import Member, Roster
from fedmerge.models.state import State


@dataclass(frozen=True)
class Answer:
    """A usable reply: whose, its numbers, and the weights where the hospital trained."""

    member: Member
    metrics: dict[str, Any]
    state: State | None


def usable(answer: Answer) -> str | None:
    """The check of answers that need none."""
    return None


@dataclass(frozen=True)
class Question:
    """What is asked of the hospitals of ``roster``, and when.

    ask: the message to a hospital at its first, second, … attempt. check: why an answer cannot be used, in
    words, or None.
    """

    round: int
    phase: str
    roster: Roster
    ask: Callable[[Member, int], Message]
    check: Callable[[Answer], str | None] = usable

    def messages(self) -> list[Message]:
        """The first message to each hospital."""
        return [self.ask(member, 1) for member in self.roster]


def read(member: Member, reply: Message | None) -> Answer | str:
    """The answer in a reply, or the reason why there is none. A reply that is garbage is a reason, too."""
    if reply is None:
        return "no answer"
    if reply.has_error():
        return reason_of(reply)
    try:
        return Answer(member, metrics_of(reply), take_state(reply))
    except Exception as error:
        return f"its answer cannot be read ({type(error).__name__}: {error})"
