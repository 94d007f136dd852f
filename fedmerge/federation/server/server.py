"""The server: the ServerApp, and the server's side of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedmerge.federation.admission import read_admitted
from fedmerge.federation.arrays import lend
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.client_state import client_state_tensors
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.messages.tensors import NO_TENSORS
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.plan.train_config import (
    common_config,
    control_config,
    fine_tune_config,
    personal_config,
)
from fedmerge.federation.policy.proposal import Proposal
from fedmerge.federation.server.clients import wait_for_clients
from fedmerge.federation.server.failures import Wrong
from fedmerge.federation.server.journal import Position, RoundJournal
from fedmerge.federation.server.plan_checks import check_plan
from fedmerge.federation.server.remote_evaluation import RemoteEvaluation
from fedmerge.federation.server.requests import Request
from fedmerge.federation.server.secure_round import Total
from fedmerge.federation.server.strategy import MergeStrategy
from fedmerge.models.state import State
from fedmerge.models.zoo import build


class Server(RemoteEvaluation):
    """The server's side of one run: train together, let each hospital fine-tune, ask for scores.

    It sees weights and numbers, never images.
    """

    def __init__(
        self,
        grid: Grid,
        plan: FederationPlan,
        clients: Sequence[str] | None = None,
        patience: float = 0.0,
        admitted: Mapping[int, str] | None = None,
        proposal: Proposal | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """clients, patience, admitted: ``wanted``, ``patience`` and ``admitted`` of ``wait_for_clients``.

        proposal: what the hospitals are told of the run with this plan; None: the plan alone. keys: the
        public keys of the admitted hospitals, by name.
        """
        self.plan = plan
        told = (Proposal(plan=plan) if proposal is None else proposal).job()
        classes, task = plan.model.n_classes, plan.model.task
        again: list[tuple[int, Wrong, int]] = []

        def failed(node: int, wrong: Wrong, attempt: int) -> bool:
            if attempt < plan.federation.attempts:
                again.append((node, wrong, attempt))
            return attempt < plan.federation.attempts

        self.clients, absent = wait_for_clients(
            grid, clients, patience, admitted, classes, told, task, failed
        )
        check_plan(plan, len(self.clients) + len(absent))
        self.strategy = MergeStrategy(plan, self.clients)
        self.strategy.keys = keys or {}
        super().__init__(grid, self.strategy)
        names = {client.node_id: client.name for client in self.clients}
        for node, wrong, attempt in again:
            named = names.get(node, f"node {node}")
            self.strategy.log.happened(0, "greeting", named, wrong, attempt, last=False)
        self.strategy.mark_absent(absent)
        self.journalled = 0, 0  # rows of history and failures that are in the journal

    def start(self) -> State:
        """Return the shared initialisation of all hospitals, the same for the same plan."""
        model = build(self.plan.model, self.plan.seed)
        return {key: value.detach().clone() for key, value in model.state_dict().items()}

    def rounds(self, start: State, journal: RoundJournal | None = None) -> State:
        """Train together for the plan's rounds; return the global model.

        journal: keeps each round before the next begins. With rounds of an earlier process in it, training
        goes on after the last of them, with server, hospitals and rows as they were then.
        """
        state, done = start, 0
        if journal is not None and self.plan.federation.secure_aggregation:
            self._keep_sums(journal)
        retained = journal.newest() if journal is not None else None
        if retained is not None:
            self._take_up(retained)
            state = {key: retained.state[key] for key in start}  # sums use the order of keys
            done = retained.round
        elif self.plan.rounds:
            self.restore({})
        begun = self._private_rounds(journal, done)
        for number in range(done + 1, self.plan.rounds + 1):
            if begun is not None and number == begun.round:
                state = self._shown_again(begun, start)
            else:
                state = self.strategy.round(self.grid, number, state)
            if journal is not None:
                self._keep(number, state, journal)
            self.strategy.between()
        return state

    def _private_rounds(self, journal: RoundJournal | None, done: int) -> Position | None:
        """Keep each private model, and the privacy spent, on disk before anybody is sent the model.

        Returns the round after ``done`` if an earlier process released its model: noise that may have been
        seen is not drawn again around the same updates.
        """
        private = self.strategy.private
        if private is None:
            return None

        def release(number: int, state: State) -> None:
            if journal is not None:
                journal.release(self._position(number, state, {}, private.asked))
            private.released(number, state)

        self.strategy.release = release
        if journal is None:
            return None
        private.spending.keep_in(journal.folder, done)
        return journal.released(done + 1)

    def _shown_again(self, begun: Position, start: State) -> State:
        """Go on with the round of ``begun``, whose model is ready; return the model."""
        private = self.strategy.private
        assert private is not None
        state = {key: begun.state[key] for key in start}
        self.strategy.load_state_dict(begun.strategy)
        self.strategy.take_rows(begun.history, begun.failures, self.journalled)
        private.asked = begun.asked
        private.released(begun.round, state)
        return self.strategy.validate(self.grid, begun.round, state)

    def _keep_sums(self, journal: RoundJournal) -> None:
        """Keep the run's name and secure sums in the journal, and use those that are there already."""

        def sum_of(round: int) -> Total | None:
            found = journal.read_sum(round)
            return None if found is None else Total(tuple(found[0]), found[1])

        self.strategy.run = journal.run()
        self.strategy.kept_sum = sum_of
        self.strategy.keep_sum = lambda round, total: journal.write_sum(round, total.names, total.words)

    def _position(
        self, number: int, state: State, memories: dict[str, State], asked: Sequence[str] = ()
    ) -> Position:
        """Return the position after a round, with the rows added since the last kept round."""
        rows = self.strategy.rows(self.journalled)
        return Position(number, state, self.strategy.state_dict(), memories, *rows, asked=tuple(asked))

    def _keep(self, number: int, state: State, journal: RoundJournal) -> None:
        journal.write(self._position(number, state, self.memories()))
        self.journalled = len(self.strategy.history), len(self.strategy.failures)

    def _take_up(self, retained: Position) -> None:
        """Restore the state of server and hospitals after the round of ``retained``."""
        self.strategy.load_state_dict(retained.strategy)
        self.strategy.take_rows(retained.history, retained.failures)
        self.journalled = len(retained.history), len(retained.failures)
        self.restore(retained.memories)

    def fine_tune(
        self, start: State, settled: Sequence[str] = (), done: int = 0
    ) -> Iterator[tuple[str, State, dict[str, Any]]]:
        """Let each hospital train its own copy of ``start``; yield (name, weights, metrics) in site order.

        With an independent start no weights are sent: each hospital begins from its own initialisation. A
        plan without fine-tuning yields nothing.
        settled: hospitals that an earlier process has asked and this one does not; done: how many of them
        gave a usable reply.
        """
        clients = ClientRegistry(client for client in self.clients if client.name not in settled)
        if self.plan.fine_tune is None or not clients:
            return
        arrays = None if self.plan.start == "independent" else lend(start)
        job = fine_tune_config(self.plan)
        request = self.strategy.training(job["round"], "fine-tune", job, arrays, start, clients)
        for reply in self.strategy.ask(self.grid, request, done):
            assert reply.state is not None  # a training answer without weights is not usable
            yield reply.client.name, reply.state, reply.metrics

    def memories(self) -> dict[str, State]:
        """Return the client states by name, for a journal; empty if hospitals keep nothing."""
        if not self.plan.federation.keeps_client_state:
            return {}
        request = self._about_memory("query.memory", {}, {})
        return {reply.client.name: reply.state or {} for reply in self.strategy.ask(self.grid, request)}

    def restore(self, memories: Mapping[str, State]) -> None:
        """Send the hospitals their client states; a hospital without one clears that of an earlier run."""
        if self.plan.federation.keeps_client_state:
            job = common_config(self.plan) | personal_config(self.plan) | control_config(self.plan)
            for _ in self.strategy.ask(self.grid, self._about_memory("query.restore", job, memories)):
                pass

    def _about_memory(self, action: str, job: dict[str, Any], memories: Mapping[str, State]) -> Request:
        def ask(client: Client, attempt: int) -> Message:
            return request_message(action, client.node_id, "memory", job, memories.get(client.name) or None)

        retained = NO_TENSORS
        if action == "query.memory":
            rules = self.plan.federation
            retained = client_state_tensors(self.plan.model, rules.personal, rules.control_variates)
        return Request(action, 0, "memory", self.clients, ask, lambda client: retained)


def server_app(
    plan: FederationPlan,
    programme: Callable[[Server], None],
    clients: Sequence[str] | None = None,
    proposal: Proposal | None = None,
) -> ServerApp:
    """Return the Flower ServerApp of a run: wait for the hospitals, then call ``programme``.

    clients: the names of those to take part; None: all that reply. proposal: see ``Server``. In the run's
    configuration, ``patience`` is the number of seconds to wait for them, and ``admitted`` the path of the
    admission file.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        patience = float(context.run_config.get("patience", 0.0))
        admitted = read_admitted(context.run_config.get("admitted"))
        names = None if admitted is None else {node: hospital.name for node, hospital in admitted.items()}
        keys = None if admitted is None else {hospital.name: hospital.key for hospital in admitted.values()}
        programme(Server(grid, plan, clients, patience, names, proposal, keys))

    return app
