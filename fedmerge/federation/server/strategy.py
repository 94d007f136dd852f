"""The Flower Strategy of a run: it composes a round from its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import AGGREGATORS, Aggregated, AggregationContext, Update
from fedmerge.federation.arrays import borrow, lend
from fedmerge.federation.checks import not_finite
from fedmerge.federation.client_registry import ClientRegistry
from fedmerge.federation.plan.participation import participants
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.plan.server_optimizer import ServerOptimizer
from fedmerge.federation.plan.train_config import round_config
from fedmerge.federation.privacy.masked import NoSum
from fedmerge.federation.privacy.round import PrivateRounds
from fedmerge.federation.server.client_manager import ClientManager
from fedmerge.federation.server.control import RoundControl, ServerControl
from fedmerge.federation.server.remote_evaluation import RemoteEvaluation
from fedmerge.federation.server.requests import Reply, Request
from fedmerge.federation.server.secure_means import EVERYONE, collect, mean_of, secure_scores, words_of
from fedmerge.federation.server.secure_round import Total
from fedmerge.models.state import State


class MergeStrategy(ClientManager, Strategy):
    """A round: send requests to the hospitals, check every reply, aggregate the usable updates.

    The plan chooses the parts: who takes part (``participation``), what each hospital keeps to itself
    (``client_state``), how updates become one model (``aggregators``, ``privacy``), and the server's step
    (``server_optimizer``).
    """

    def __init__(self, plan: FederationPlan, clients: ClientRegistry) -> None:
        super().__init__(plan, clients)
        self.optimizer = ServerOptimizer.of(plan.federation.optimizer, plan.model, plan.federation.personal)
        privacy = plan.federation.privacy
        self.private = None if privacy is None else PrivateRounds(privacy, plan.seed)
        self.control = ServerControl(plan.model) if plan.federation.control_variates else None
        self.release: Callable[[int, State], None] = lambda number, state: None  # before a model is sent
        self._asked: tuple[Grid, Request, State] | None = None
        self.kept_sum: Callable[[int], Total | None] = lambda round: None  # of an earlier process
        self.keep_sum: Callable[[int, Total], None] = lambda round, total: None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one training message per participant; a round covers its part of the learning rates."""
        job = round_config(self.plan, server_round)
        sent = borrow(arrays)
        chosen = participants(self.clients, self.plan.federation.participation, self.plan.seed, server_round)
        label = self._label("train", server_round)
        if self.control is not None:
            arrays = self.control.lent(sent)
        request = self.training(server_round, "train", job, arrays, sent, chosen, label)
        self._asked = (grid, request, sent)
        return request.messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the usable updates, read one by one. Raises FedMergeError below the quorum."""
        assert self._asked is not None  # configure_train comes first
        grid, request, sent = self._asked
        self._asked = None
        merged = self._merged(grid, request, sent, self.replies(grid, request, replies))
        if self.private is not None:
            rows = self.private.rows([client.name for client in request.clients])
            self.history.extend({"round": server_round, "phase": "aggregate"} | row for row in rows)
        if merged is None:
            return lend(sent), None
        here = {"round": server_round, "phase": "aggregate"}
        self.history.extend(here | decision for decision in merged.decisions)
        if self.control is not None and merged.control is not None:
            self.control.add(merged.control)
        new = merged.state if self.optimizer is None else self.optimizer.step(sent, merged.state)
        wrong = not_finite(new)
        if wrong:
            raise FedMergeError(
                f"the model of round {server_round} cannot be used: {wrong}. Refuse updates that are far off "
                "(max_norm), take an aggregator that holds out against them, or a smaller learning rate."
            )
        return lend(new), None

    def _merged(self, grid: Grid, asked: Request, sent: State, replies: Iterator[Reply]) -> Aggregated | None:
        """Aggregate the usable replies as the plan says; return None if no secure sum could be formed."""
        round = asked.round
        rules, seed, batch_norm = self.plan.federation, self.plan.seed, self.plan.batch_norm
        if rules.secure_aggregation:
            return self._secure(grid, round, sent, replies)
        updates = map(_update, replies)
        if self.private is not None and self.private.central:
            states = (update.state for update in updates)
            return Aggregated(self.private.mean(round, sent, states, len(asked.clients)))
        context = AggregationContext(
            sent,
            round,
            seed,
            batch_norm,
            self.plan.model,
            RemoteEvaluation(grid, self),
            self._control(round, sent),
        )
        merged: Aggregated = AGGREGATORS[rules.aggregate.method].call(
            updates, context, **rules.aggregate.options
        )
        return merged

    def _control(self, round: int, sent: State) -> RoundControl | None:
        """Return the control variates of a round for the aggregator; None without them."""
        if self.control is None:
            return None
        images = float(sum(client.examples for client in self.clients))
        return RoundControl(self.plan, round, sent, self.control.sent(sent), images)

    def _secure(self, grid: Grid, round: int, sent: State, replies: Iterable[Reply]) -> Aggregated | None:
        """Return the mean from a secure sum, which is kept before it is used; None without a sum."""
        try:
            total = self.kept_sum(round)
            if total is None:
                total = collect(self, grid, round, self._label("train", round) or "", replies, words_of(sent))
                self.keep_sum(round, total)
            mean = mean_of(self, total, sent)
        except NoSum as error:
            self.log.void(round, "sum", str(error))
            return None
        self.history.append({"round": round, "phase": "train", "site": EVERYONE} | mean.numbers)
        return Aggregated(mean.state, tuple({"site": name} for name in mean.names))

    def _label(self, phase: str, round: int) -> str | None:
        """Return the label of a secure sum; None without secure aggregation."""
        return f"{self.run} {phase} {round}" if self.plan.federation.secure_aggregation else None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one evaluation message per hospital, for its validation split, whether it trained or not."""
        label = self._label("validate", server_round)
        request = self.evaluation(server_round, "validate", arrays, self.clients, own=True, label=label)
        self._asked = (grid, request, {})
        return request.messages()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each hospital's numbers in ``history``; with secure aggregation, only their mean."""
        assert self._asked is not None  # configure_evaluate comes first
        grid, request, _ = self._asked
        self._asked = None
        label = self._label("validate", server_round)
        if label is None:
            for _ in self.replies(grid, request, replies):
                pass
            return None
        try:
            numbers = secure_scores(self, grid, request, replies, label)
        except NoSum as error:
            self.log.void(server_round, "validate", str(error))
            return None
        self.history.append({"round": server_round, "phase": "validate", "site": EVERYONE} | numbers)
        return None

    def summary(self) -> None:
        """Log nothing: the run's configuration says everything."""

    def round(self, grid: Grid, number: int, state: State) -> State:
        """Run one round: hospitals train from ``state`` and score the new model; return the new model."""
        requests = self.configure_train(number, lend(state), ConfigRecord(), grid)
        replies = () if self.kept_sum(number) is not None else self.send(grid, requests)
        arrays, _ = self.aggregate_train(number, replies)
        assert arrays is not None  # below the quorum it raised
        new = borrow(arrays)
        self.release(number, new)
        return self.validate(grid, number, new)

    def validate(self, grid: Grid, number: int, state: State) -> State:
        """Run the second half of a round: hospitals score its model ``state``; return it."""
        requests = self.configure_evaluate(number, lend(state), ConfigRecord(), grid)
        self.aggregate_evaluate(number, self.send(grid, requests))
        return state

    def state_dict(self) -> State:
        """Return the server's state over the rounds: the server optimizer's moments, c, an adaptive clip."""
        kept = {} if self.optimizer is None else self.optimizer.state_dict()
        kept |= {} if self.control is None else self.control.state_dict()
        return kept | ({} if self.private is None else self.private.state_dict())

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``."""
        rest = state if self.private is None else self.private.load_state_dict(state)
        rest = rest if self.control is None else self.control.load_state_dict(rest)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(rest)


def _update(reply: Reply) -> Update:
    assert reply.state is not None  # a training answer without weights is not usable
    return Update(reply.client.name, reply.state, float(reply.metrics["num-examples"]))
