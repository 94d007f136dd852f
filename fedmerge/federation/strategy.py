"""The Strategy: what a round is, put together from its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmerge.federation.aggregators import AGGREGATORS, Aggregated, Around, Update
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.checks import check_images, check_update
from fedmerge.federation.exchange import Answer, Question, judged, read
from fedmerge.federation.failures import Failure, Failures, Wrong
from fedmerge.federation.fault_plan import Fault, struck
from fedmerge.federation.grids.simulated import SimulatedGrid
from fedmerge.federation.inquiry import Inquiry
from fedmerge.federation.jobs import common_job, personal_job, training_job
from fedmerge.federation.participation import participants
from fedmerge.federation.plan import Plan
from fedmerge.federation.privacy.central import private_mean, spending
from fedmerge.federation.privacy.secure_round import check_public, secure_mean
from fedmerge.federation.records import request
from fedmerge.federation.roster import Member, Roster
from fedmerge.federation.server_optimizer import ServerOptimizer
from fedmerge.models.state import State

UNTOLD = ("score", "memory")  # phases that leave no row in the history
TIMEOUT = 3600.0  # seconds for the answers to one question of a round
LOADING = 60.0  # seconds for a hospital to start, if it must, and to load its images and network


class MergeStrategy(Strategy):
    """A round: ask the hospitals, check every answer, aggregate the usable ones.

    The parts are the plan's: who takes part (``participation``), what each keeps to itself (``memory``), how
    updates become one model (``aggregators``, ``privacy``, ``secure_round``), what the server makes of it
    (``server_optimizer``).

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
        self.optimizer = ServerOptimizer.of(plan)
        self.between: Callable[[], None] = lambda: None  # called where a round may be left
        self._asked: tuple[Grid, Question, State] | None = None

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

    def excuse(self, absent: Mapping[str, str]) -> None:
        """Record hospitals that did not come at all, with the reason; raises below the quorum."""
        for name, reason in absent.items():
            self.log.happened(0, "greeting", name, Wrong("silent", reason))
        if absent:
            self.log.check_quorum(0, "greeting", len(self.roster), len(self.roster) + len(absent))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One training message a participant; each round covers its part of the learning-rate schedule."""
        span = ((server_round - 1) / self.plan.rounds, server_round / self.plan.rounds)
        job = training_job(self.plan, server_round, "round", self.plan.local, span)
        job |= {"secure": True} if self.plan.federation.secure_aggregation else {}
        sent = borrow(arrays)
        chosen = participants(self.roster, self.plan.federation.participation, self.plan.seed, server_round)
        question = self.training(server_round, "train", job, arrays, sent, chosen)
        self._asked = (grid, question, sent)
        return question.messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the usable updates, read one by one; raise FedMergeError below the quorum."""
        assert self._asked is not None  # configure_train comes first
        grid, question, sent = self._asked
        self._asked = None
        merged = self._merged(grid, server_round, sent, self.answers(grid, question, replies))
        if merged is None:
            self.log.void(server_round)
            return lend(sent), None
        here = {"round": server_round, "phase": "aggregate"}
        self.history.extend(here | decision for decision in merged.decisions)
        new = merged.state if self.optimizer is None else self.optimizer.step(sent, merged.state)
        return lend(new), None

    def _merged(self, grid: Grid, round: int, sent: State, answers: Iterator[Answer]) -> Aggregated | None:
        """One model of the usable answers, as the plan says; None where no sum could be formed."""
        rules, seed, batch_norm = self.plan.federation, self.plan.seed, self.plan.batch_norm
        if rules.secure_aggregation:
            state = secure_mean(
                round,
                answers,
                sent,
                batch_norm,
                lambda question: self.usable(question, self.send(grid, question.messages()), grid),
            )
            return None if state is None else Aggregated(state)
        updates = map(_update, answers)
        if rules.privacy is not None:
            state = private_mean(sent, (update.state for update in updates), rules.privacy, seed, round)
            trained = Counter(row["site"] for row in self.history if row["phase"] == "train")
            return Aggregated(state, spending(rules.privacy, trained))
        around = Around(sent, round, seed, batch_norm, self.plan.model, Inquiry(grid, self))
        merged: Aggregated = AGGREGATORS[rules.aggregate.method].call(
            updates, around, **rules.aggregate.options
        )
        return merged

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One evaluation message a hospital, for its validation split, whether it took part or not."""
        question = self.evaluation(server_round, "validate", arrays, self.roster, own=True)
        self._asked = (grid, question, {})
        return question.messages()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each hospital's numbers in ``history``; nothing is averaged away."""
        assert self._asked is not None  # configure_evaluate comes first
        grid, question, _ = self._asked
        self._asked = None
        for _ in self.answers(grid, question, replies):
            pass
        return None

    def summary(self) -> None:
        """Nothing to log: the run's config says it all."""

    def round(self, grid: Grid, number: int, state: State) -> State:
        """One round: hospitals train from ``state``, and score what is made of it; returns that."""
        none = ConfigRecord()
        questions = self.configure_train(number, lend(state), none, grid)
        arrays, _ = self.aggregate_train(number, self.send(grid, questions))
        assert arrays is not None  # below the quorum it raised
        questions = self.configure_evaluate(number, arrays, none, grid)
        self.aggregate_evaluate(number, self.send(grid, questions))
        return borrow(arrays)

    def state_dict(self) -> State:
        """What it gathers over the rounds beside the rows: the server optimizer's moments."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take back what ``state_dict`` gave."""
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)

    def rows(self, since: tuple[int, int] = (0, 0)) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """``history`` and ``failures`` as rows, from these positions on."""
        return self.history[since[0] :], [asdict(failure) for failure in self.failures[since[1] :]]

    def take_rows(self, history: list[dict[str, Any]], failures: list[dict[str, Any]]) -> None:
        """Put the rows of an earlier process before those of this one; what both have stands once."""
        before = [Failure(**row) for row in failures]
        self.history[:0] = history
        self.log.records[:] = before + [failure for failure in self.log.records if failure not in before]

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
            if question.phase not in UNTOLD:
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
                answer = judged(question, read(member, reply), rules.deadline)
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
    ) -> Question:
        """The question to train. sent: the weights in ``arrays``, or any of the network, to check against."""
        rules, last = self.plan.federation, self._last_rounds(round)

        def faults(member: Member, attempt: int) -> tuple[Fault, ...]:
            return struck(rules.faults, self.plan.seed, round, member.name, attempt)

        def ask(member: Member, attempt: int) -> Message:
            own: dict[str, Any] = {"since": last.get(member.name, 0)} if "personal" in job else {}
            spoilt = [fault.told() for fault in faults(member, attempt)]
            own |= {"faults": spoilt} if spoilt else {}
            return request("train", member.node_id, str(round), job | own, arrays)

        def injected(member: Member, attempt: int) -> str:
            return ", ".join(fault.kind for fault in faults(member, attempt))

        def check(answer: Answer) -> str | None:
            if answer.state is None:
                return "it answered without weights"
            if answer.metrics.pop("forgot", 0):
                self.log.began_anew(round, phase, answer.member.name, last.get(answer.member.name, 0))
            if job.get("secure"):
                return check_images(answer.metrics) or check_public(answer)
            return check_images(answer.metrics) or check_update(answer.state, sent, rules.max_norm)

        return Question(round, phase, roster, ask, check, injected)

    def evaluation(
        self,
        round: int,
        phase: str,
        state: State | ArrayRecord,
        roster: Roster,
        *,
        calibrate: bool = False,
        own: bool = False,
    ) -> Question:
        """The question how good ``state`` is on the validation images of ``roster``.

        calibrate: whether they are to fit a temperature, too. own: whether each puts its personal part into
        it.
        """
        job = common_job(self.plan) | ({"calibrate": True} if calibrate else {})
        job |= personal_job(self.plan) if own else {}
        arrays = state if isinstance(state, ArrayRecord) else lend(state)

        def ask(member: Member, attempt: int) -> Message:
            return request("evaluate", member.node_id, f"{phase} {round}", job, arrays)

        return Question(round, phase, roster, ask)

    def _last_rounds(self, before: int) -> dict[str, int]:
        """The last round before ``before`` for which each hospital's training is in the history."""
        rows = [row for row in self.history if row["phase"] == "train" and row["round"] < before]
        return {row["site"]: row["round"] for row in rows}


def _update(answer: Answer) -> Update:
    assert answer.state is not None  # a training answer without weights is not usable
    return Update(answer.member.name, answer.state, float(answer.metrics["num-examples"]))
