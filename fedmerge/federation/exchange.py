"""One question to several hospitals, and what a reply to it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from fedmerge.federation.failures import Wrong
from fedmerge.federation.grids.simulated import LATE
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


def nothing(member: Member, attempt: int) -> str:
    """What a fault plan does that does nothing."""
    return ""


@dataclass(frozen=True)
class Question:
    """What is asked of the hospitals of ``roster``, and when.

    ask: the message to a hospital at its first, second, … attempt. check: why an answer cannot be used, in
    words, or None. injected: what the fault plan does to a hospital at an attempt, in words. secret: whether
    what the answers say is under masks, so that there is nothing to tell of one hospital.
    """

    round: int
    phase: str
    roster: Roster
    ask: Callable[[Member, int], Message]
    check: Callable[[Answer], str | None] = usable
    injected: Callable[[Member, int], str] = nothing
    secret: bool = False

    def messages(self) -> list[Message]:
        """The first message to each hospital."""
        return [self.ask(member, 1) for member in self.roster]


def read(member: Member, reply: Message | None) -> Answer | Wrong:
    """The answer in a reply, or why there is none. A reply that is garbage is a reason, too."""
    if reply is None:
        return Wrong("silent", "no answer")
    if reply.has_error():
        return Wrong("late" if reply.error.code == LATE else "error", reason_of(reply))
    try:
        return Answer(member, metrics_of(reply), take_state(reply))
    except Exception as error:
        return Wrong("error", f"its answer cannot be read ({type(error).__name__}: {error})")


def late(answer: Answer | Wrong, deadline: float | None) -> Wrong | None:
    """Why an answer is too late, or None.

    What counts is the hospital's own clock: the ``seconds`` that it says its training took, and the
    ``delay`` of a fault plan. So a simulation in which hospitals wait for each other is judged as if each
    had a machine of its own. Nothing at all, by the time that the grid waits, is late, too.
    """
    if deadline is None:
        return None
    if isinstance(answer, Wrong):
        told = math.inf if answer.kind == "silent" else 0.0
    else:
        told = float(answer.metrics.get("seconds", 0.0)) + float(answer.metrics.get("delay", 0.0))
    if told <= deadline:
        return None
    if math.isinf(told):
        return Wrong("late", f"no answer within the deadline of {deadline:g} s")
    return Wrong("late", f"its answer took {told:.1f} s, more than the deadline of {deadline:g} s")


def judged(question: Question, answer: Answer | Wrong, deadline: float | None) -> Answer | Wrong:
    """The answer if it can be used, else what is wrong with it."""
    wrong = late(answer, deadline)
    if wrong is not None or isinstance(answer, Wrong):
        return wrong or answer
    refused = question.check(answer)
    return answer if refused is None else Wrong("refused", refused)
