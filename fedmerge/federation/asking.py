"""Asking the hospitals: what becomes of every answer, and the record of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedmerge.federation.arrays import lend
from fedmerge.federation.checks import check_update, limit_of
from fedmerge.federation.exchange import Answer, Question, no_tensors, read
from fedmerge.federation.failures import Failure, Failures, Wrong
from fedmerge.federation.fault_plan import Fault, struck
from fedmerge.federation.grids.simulated import SimulatedGrid
from fedmerge.federation.jobs import common_job, personal_job
from fedmerge.federation.plan import Plan
from fedmerge.federation.privacy.secure_round import check_offer
from fedmerge.federation.records import request
from fedmerge.federation.roster import Member, Roster
from fedmerge.federation.schema.answers import Evaluated, Trained
from fedmerge.federation.schema.tensors import Tensors
from fedmerge.models.state import State

UNTOLD = ("score", "memory")  # phases that leave no row in the history
TIMEOUT = 3600.0  # seconds for the answers to one question of a round
LOADING = 60.0  # seconds for a hospital to start, if it must, and to load its images and network


class Asking:
    """Puts questions to the hospitals of a roster and checks every answer, as a plan wants.

    Answers are taken one by one in the order of the hospitals' names, whatever order they arrive in, so the
    same answers give the same bits. One that is an error or fails a check (``checks``) is recorded, and
    ``failures`` decides what then: a hospital that is asked again takes its own place in the order.
    ``history`` has one row per round, phase and site.
    """

    def __init__(self, plan: Plan, roster: Roster) -> None:
        self.plan = plan
        self.roster = roster
        self.history: list[dict[str, Any]] = []
        self.log = Failures(plan.federation)
        self.between: Callable[[], None] = lambda: None  # called where a round may be left
        self.run = secrets.token_hex(
            16
        )  # a name for this run that no other has, in the labels of secure sums
        self.summed: dict[str, tuple[str, ...]] = {}  # of whom sums under masks over certain images are
        self.keys: Mapping[str, str] = {}  # the public keys with which hospitals were admitted, by name

    @property
    def failures(self) -> list[Failure]:
        """Every attempt of a hospital that gave no usable answer."""
        return self.log.records

    def send(self, grid: Grid, messages: list[Message]) -> Iterable[Message]:
        """Send messages; the grid waits for replies until the deadline, or, without one, very long.

        Each has that time, and some to load its images; in a simulation, where hospitals wait for each other,
        from when its turn comes. Who is late is said by their own clocks (``exchange.late``).
        """
        deadline = self.plan.federation.deadline
        wait = None if deadline is None else deadline + LOADING
        if isinstance(grid, SimulatedGrid):
            return grid.ask(messages, wait)
        return grid.send_and_receive(messages, timeout=TIMEOUT if wait is None else wait)

    def excuse(self, absent: Mapping[str, Wrong]) -> None:
        """Record hospitals that did not come at all, or not as they should; raises below the quorum."""
        for name, wrong in absent.items():
            self.log.happened(0, "greeting", name, wrong)
        if absent:
            self.log.check_quorum(0, "greeting", len(self.roster), len(self.roster) + len(absent))

    def ask(self, grid: Grid, question: Question, before: int = 0) -> Iterator[Answer]:
        """Put a question; yield the usable answers as ``answers`` does."""
        return self.answers(grid, question, self.send(grid, question.messages()), before)

    def answers(
        self, grid: Grid, question: Question, replies: Iterable[Message], before: int = 0
    ) -> Iterator[Answer]:
        """The usable answers, one by one in the order of the roster; the others become failures.

        With ``on_failure: retry`` a hospital is asked again when its turn comes, but not one that is late,
        because the round is over then; the deadline holds for each attempt. Raises FedMergeError after
        the last one if they are fewer than the quorum. before: other hospitals that gave a usable answer to
        the same question in an earlier process.
        """
        usable = before
        for answer in self.usable(question, replies, grid):
            usable += 1
            if question.phase not in UNTOLD and not question.secret:
                where = {"round": question.round, "phase": question.phase, "site": answer.member.name}
                self.history.append(where | answer.metrics)
            yield answer
        self.log.check_quorum(question.round, question.phase, usable, len(question.roster) + before)

    def usable(
        self, question: Question, replies: Iterable[Message], grid: Grid | None = None
    ) -> Iterator[Answer]:
        """The usable answers as ``answers`` gives them, however few. grid: to ask again with."""
        rules = self.plan.federation
        attempts = rules.attempts if grid is not None else 1
        for member, reply in question.roster.in_order(replies):
            for attempt in range(1, attempts + 1):
                if attempt > 1 and grid is not None:
                    messages = [question.ask(member, attempt)]
                    reply = next(iter(self.send(grid, messages)), None)
                where = (question.round, question.phase, member.name)
                injected = question.injected(member, attempt)
                answer = read(question, member, reply, rules.deadline)
                if isinstance(answer, Answer):
                    if injected:
                        self.log.counted(*where, attempt, injected)
                    yield answer
                    break
                last = attempt == attempts or answer.kind == "late"
                self.log.happened(*where, answer, attempt, last=last, injected=injected)
                if last:
                    break
            if member is not question.roster[-1] and question.phase != "validate":
                self.between()

    def training(
        self,
        round: int,
        phase: str,
        job: dict[str, Any],
        arrays: ArrayRecord | None,
        sent: State,
        roster: Roster,
        label: str | None = None,
    ) -> Question:
        """The question to train. sent: the weights in ``arrays``, or any of the network, to check against.

        label: of a secure sum, for which the hospitals answer keys.
        """
        kind = "train" if label is None else "train.secure"
        job = job if label is None else job | {"label": label, "batch_norm": self.plan.batch_norm}
        rules, last = self.plan.federation, self._last_rounds(round)

        def faults(member: Member, attempt: int) -> tuple[Fault, ...]:
            return struck(rules.faults, self.plan.seed, round, member.name, attempt)

        def ask(member: Member, attempt: int) -> Message:
            own: dict[str, Any] = {"since": last.get(member.name, 0)} if "personal" in job else {}
            spoilt = [fault.told() for fault in faults(member, attempt)]
            own |= {"faults": spoilt} if spoilt else {}
            return request(kind, member.node_id, str(round), job | own, arrays)

        def injected(member: Member, attempt: int) -> str:
            return ", ".join(fault.kind for fault in faults(member, attempt))

        def check(answer: Answer) -> str | None:
            assert isinstance(answer.said, Trained)
            if answer.said.forgot:
                self.log.began_anew(round, phase, answer.member.name, last.get(answer.member.name, 0))
            return check_update(answer.state or {}, sent, rules.max_norm, limit)

        if label is not None:
            offered = check_offer(label, self.keys)
            return Question(kind, round, phase, roster, ask, no_tensors, offered, injected, secret=True)
        tensors, limit = Tensors.like(sent), limit_of(sent)
        return Question(kind, round, phase, roster, ask, lambda member: tensors, check, injected)

    def evaluation(
        self,
        round: int,
        phase: str,
        state: State | ArrayRecord,
        roster: Roster,
        *,
        calibrate: bool = False,
        own: bool = False,
        label: str | None = None,
    ) -> Question:
        """The question how good ``state`` is on the validation images of ``roster``.

        calibrate: whether they are to fit a temperature, too. own: whether each puts its personal part into
        it. label: of a secure sum, for which the hospitals answer keys.
        """
        job = common_job(self.plan) | ({"calibrate": True} if calibrate else {})
        job |= personal_job(self.plan) if own else {}
        job |= {} if label is None else {"label": label}
        kind = "evaluate" if label is None else "evaluate.secure"
        arrays = state if isinstance(state, ArrayRecord) else lend(state)

        def ask(member: Member, attempt: int) -> Message:
            return request(kind, member.node_id, f"{phase} {round}", job, arrays)

        def check(answer: Answer) -> str | None:
            assert isinstance(answer.said, Evaluated)
            if calibrate != (answer.said.temperature is not None):
                return "it does not say its temperature" if calibrate else "it says a temperature, unasked"
            return None

        if label is not None:
            return Question(kind, round, phase, roster, ask, check=check_offer(label, self.keys), secret=True)
        return Question(kind, round, phase, roster, ask, check=check)

    def _last_rounds(self, before: int) -> dict[str, int]:
        """The last round before ``before`` for which each hospital's training is in the history."""
        rows = [row for row in self.history if row["phase"] == "train" and row["round"] < before]
        return {row["site"]: row["round"] for row in rows}

    def rows(self, since: tuple[int, int] = (0, 0)) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """``history`` and ``failures`` as rows, from these positions on."""
        return self.history[since[0] :], [asdict(failure) for failure in self.failures[since[1] :]]

    def take_rows(
        self,
        history: list[dict[str, Any]],
        failures: list[dict[str, Any]],
        at: tuple[int, int] = (0, 0),
    ) -> None:
        """Put the rows of an earlier process before those of this one; what both have stands once.

        at: how many rows of history and failures come before them.
        """
        before = [Failure(**row) for row in failures]
        self.history[at[0] : at[0]] = history
        rest = [failure for failure in self.log.records[at[1] :] if failure not in before]
        self.log.records[at[1] :] = before + rest
