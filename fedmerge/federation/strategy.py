"""The Strategy: what a round is, how replies become one model, and what happens to a hospital that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmerge.errors import FedMergeError
from fedmerge.federation.arrays import lend
from fedmerge.federation.plan import Plan
from fedmerge.federation.records import metrics_of, reason_of, request, take_state
from fedmerge.federation.roster import Member, Roster
from fedmerge.models.state import State, average, non_finite
from fedmerge.training import TrainingOptions


@dataclass(frozen=True)
class Answer:
    """A usable reply: whose, its numbers, and the weights where the hospital trained."""

    member: Member
    metrics: dict[str, Any]
    state: State | None


@dataclass(frozen=True)
class Failure:
    """A hospital that gave no usable answer: when, who and why, in a sentence."""

    round: int
    phase: str
    site: str
    reason: str


class MergeStrategy(Strategy):
    """Mean aggregation over all hospitals, in site order, accumulated in float64.

    theta <- sum_m (n_m / n) theta_m with n_m the training images of hospital m (FedAvg, arXiv
    1602.05629). Batch-norm statistics follow the plan's policy. A hospital whose reply is an error or
    holds a number that is not finite is left out of the round and recorded in ``failures``.
    ``history`` has one row per round, phase and site.
    """

    def __init__(self, plan: Plan, roster: Roster) -> None:
        self.plan = plan
        self.roster = roster
        self.history: list[dict[str, Any]] = []
        self.failures: list[Failure] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One training message a hospital; each round covers its part of the learning-rate schedule."""
        span = ((server_round - 1) / self.plan.rounds, server_round / self.plan.rounds)
        job = self.job(server_round, "round", self.plan.local, span)
        return [request("train", member.node_id, str(server_round), job, arrays) for member in self.roster]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the accepted weights; raise FedMergeError below the quorum."""
        accepted = self.accept(server_round, "train", replies)
        weights = [float(answer.metrics["num-examples"]) for answer in accepted]
        states = (answer.state for answer in accepted if answer.state is not None)
        return lend(average(states, weights, batch_norm=self.plan.batch_norm)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One evaluation message a hospital, for its validation split."""
        return self.evaluation(str(server_round), arrays, self.roster)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each hospital's numbers in ``history``; nothing is averaged away."""
        self.accept(server_round, "validate", replies)
        return None

    def summary(self) -> None:
        """Nothing to log: the run's config says it all."""

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

    def evaluation(
        self, group: str, state: State | ArrayRecord, roster: Roster, *, calibrate: bool = False
    ) -> list[Message]:
        """Evaluation messages for ``state`` to the hospitals of ``roster``.

        calibrate: whether they are to fit a temperature, too.
        """
        job = self.common() | ({"calibrate": True} if calibrate else {})
        return [request("evaluate", member.node_id, group, job, state) for member in roster]

    def accept(
        self, round: int, phase: str, replies: Iterable[Message], roster: Roster | None = None
    ) -> list[Answer]:
        """The usable replies in site order; the others become failures. Raises below the quorum."""
        roster = self.roster if roster is None else roster
        accepted = self.usable(round, phase, replies, roster)
        if len(accepted) < min(self.plan.quorum, len(roster)):
            reasons = "; ".join(f"{f.site}: {f.reason}" for f in self.failures if f.round == round)
            raise FedMergeError(
                f"round {round} ({phase}): {len(accepted)} of {len(roster)} hospitals gave a usable answer, "
                f"fewer than the quorum of {self.plan.quorum}. {reasons}"
            )
        if phase != "score":
            self.history.extend(
                {"round": round, "phase": phase, "site": answer.member.name} | answer.metrics
                for answer in accepted
            )
        return accepted

    def usable(
        self,
        round: int,
        phase: str,
        replies: Iterable[Message],
        roster: Roster,
        check: Callable[[Answer], str | None] | None = None,
    ) -> list[Answer]:
        """The usable replies in the order of ``roster``, however few; the others become failures.

        check: says why an answer cannot be used, in words, or None.
        """
        accepted = []
        for member, reply in roster.in_order(replies):
            answer = _read(member, reply)
            wrong = answer if isinstance(answer, str) else check(answer) if check else None
            if wrong is not None:
                self._fail(Failure(round, phase, member.name, wrong))
            elif isinstance(answer, Answer):
                accepted.append(answer)
        return accepted

    def excuse(self, absent: Mapping[str, str]) -> None:
        """Record hospitals that did not come at all, with the reason; raises below the quorum."""
        for name, reason in absent.items():
            self._fail(Failure(0, "greeting", name, reason))
        if absent and len(self.roster) < self.plan.quorum:
            raise FedMergeError(
                f"{len(self.roster)} hospitals came, fewer than the quorum of {self.plan.quorum}; missing: "
                + "; ".join(f"{name}: {reason}" for name, reason in absent.items())
            )

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.plan.on_failure == "abort":
            raise FedMergeError(
                f"hospital '{failure.site}' failed in round {failure.round} ({failure.phase}): "
                f"{failure.reason} (on_failure: skip would go on without it)"
            )

    def common(self) -> dict[str, Any]:
        """What every job says: the network, how images become its input, the run's seed."""
        normalisation = self.plan.normalisation
        return {
            "model": self.plan.model.model_dump(),
            "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
            "seed": self.plan.seed,
        }


def _read(member: Member, reply: Message | None) -> Answer | str:
    """The answer in a reply, or the reason why it cannot be used."""
    if reply is None:
        return "no answer"
    if reply.has_error():
        return reason_of(reply)
    state = take_state(reply)
    if state is not None:
        broken = non_finite(state)
        if broken:
            return f"numbers are not finite in {len(broken)} tensors, first '{broken[0]}'"
    return Answer(member, metrics_of(reply), state)
