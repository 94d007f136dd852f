"""The Strategy: what a round is, put together from its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmerge.federation.aggregators import AGGREGATORS, Around, Update
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.checks import check_images, check_update
from fedmerge.federation.exchange import Answer, Question, read
from fedmerge.federation.failures import Failure, Failures
from fedmerge.federation.plan import Plan
from fedmerge.federation.records import request
from fedmerge.federation.roster import Member, Roster
from fedmerge.models.state import State
from fedmerge.training import TrainingOptions


class MergeStrategy(Strategy):
    """A round: ask the hospitals, check every answer, aggregate the usable ones.

    Answers are taken one by one in the order of the hospitals' names, whatever order they arrive in, so the
    same answers give the same bits. One that is an error or fails a check (``checks``) is recorded, and
    ``failures`` decides what then: a hospital that is asked again takes its own place in the order. What
    aggregation does with the others is the plan's aggregator (``aggregators``). ``history`` has one row per
    round, phase and site.
    """

    def __init__(self, plan: Plan, roster: Roster) -> None:
        self.plan = plan
        self.roster = roster
        self.history: list[dict[str, Any]] = []
        self.log = Failures(plan.federation)
        self._asked: tuple[Grid, Question, State] | None = None

    @property
    def failures(self) -> list[Failure]:
        """Every attempt of a hospital that gave no usable answer."""
        return self.log.records

    def excuse(self, absent: Mapping[str, str]) -> None:
        """Record hospitals that did not come at all, with the reason; raises below the quorum."""
        for name, reason in absent.items():
            self.log.happened(0, "greeting", name, reason, 1, last=True)
        if absent:
            self.log.check_quorum(0, "greeting", len(self.roster), len(self.roster) + len(absent))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One training message a hospital; each round covers its part of the learning-rate schedule."""
        span = ((server_round - 1) / self.plan.rounds, server_round / self.plan.rounds)
        job = self.job(server_round, "round", self.plan.local, span)
        sent = borrow(arrays)
        question = self.training(server_round, "train", job, arrays, sent)
        self._asked = (grid, question, sent)
        return question.messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the usable updates, read one by one; raise FedMergeError below the quorum."""
        assert self._asked is not None  # configure_train comes first
        grid, question, sent = self._asked
        self._asked = None
        chosen = self.plan.federation.aggregate
        around = Around(sent, server_round, self.plan.seed, self.plan.batch_norm)
        updates = map(_update, self.answers(grid, question, replies))
        merged = AGGREGATORS[chosen.method].call(updates, around, **chosen.options)
        return lend(merged.state), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One evaluation message a hospital, for its validation split."""
        question = self.evaluation(server_round, "validate", arrays, self.roster)
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

    def ask(self, grid: Grid, question: Question) -> Iterator[Answer]:
        """Put a question; yield the usable answers as ``answers`` does."""
        return self.answers(grid, question, grid.send_and_receive(question.messages()))

    def answers(self, grid: Grid, question: Question, replies: Iterable[Message]) -> Iterator[Answer]:
        """The usable answers, one by one in the order of the roster; the others become failures.

        With ``on_failure: retry`` a hospital is asked again when its turn comes. Raises FedMergeError after
        the last one if they are fewer than the quorum.
        """
        usable = 0
        for answer in self.usable(question, replies, grid):
            usable += 1
            if question.phase != "score":
                where = {"round": question.round, "phase": question.phase, "site": answer.member.name}
                self.history.append(where | answer.metrics)
            yield answer
        self.log.check_quorum(question.round, question.phase, usable, len(question.roster))

    def usable(
        self, question: Question, replies: Iterable[Message], grid: Grid | None = None
    ) -> Iterator[Answer]:
        """The usable answers as ``answers`` gives them, however few. grid: to ask again with."""
        attempts = self.plan.federation.attempts if grid is not None else 1
        for member, reply in question.roster.in_order(replies):
            for attempt in range(1, attempts + 1):
                if attempt > 1 and grid is not None:
                    reply = next(iter(grid.send_and_receive([question.ask(member, attempt)])), None)
                answer = read(member, reply)
                wrong = answer if isinstance(answer, str) else question.check(answer)
                if isinstance(answer, Answer) and wrong is None:
                    yield answer
                    break
                where = (question.round, question.phase, member.name)
                self.log.happened(*where, str(wrong), attempt, last=attempt == attempts)

    def training(
        self, round: int, phase: str, job: dict[str, Any], arrays: ArrayRecord | None, sent: State
    ) -> Question:
        """The question to train. sent: the weights in ``arrays``, or any of the network, to check against."""
        limit = self.plan.federation.max_norm

        def ask(member: Member, attempt: int) -> Message:
            return request("train", member.node_id, str(round), job, arrays)

        def check(answer: Answer) -> str | None:
            if answer.state is None:
                return "it answered without weights"
            return check_images(answer.metrics) or check_update(answer.state, sent, limit)

        return Question(round, phase, self.roster, ask, check)

    def evaluation(
        self, round: int, phase: str, state: State | ArrayRecord, roster: Roster, *, calibrate: bool = False
    ) -> Question:
        """The question how good ``state`` is on the validation images of ``roster``.

        calibrate: whether they are to fit a temperature, too.
        """
        job = self.common() | ({"calibrate": True} if calibrate else {})
        arrays = state if isinstance(state, ArrayRecord) else lend(state)

        def ask(member: Member, attempt: int) -> Message:
            return request("evaluate", member.node_id, f"{phase} {round}", job, arrays)

        return Question(round, phase, roster, ask)

    def job(
        self, round: int, purpose: str, training: TrainingOptions, span: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Any]:
        """The description of a training job, as a hospital receives it."""
        return self.common() | {
            "training": training.model_dump(),
            "round": round,
            "purpose": purpose,
            "span": list(span),
        }

    def common(self) -> dict[str, Any]:
        """What every job says: the network, how images become its input, the run's seed."""
        normalisation = self.plan.normalisation
        return {
            "model": self.plan.model.model_dump(),
            "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
            "seed": self.plan.seed,
        }


def _update(answer: Answer) -> Update:
    assert answer.state is not None  # a training answer without weights is not usable
    return Update(answer.member.name, answer.state, float(answer.metrics["num-examples"]))
