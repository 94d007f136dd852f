"""Send requests to the hospitals, check each reply, and keep the history and the failures."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedmerge.federation.arrays import lend
from fedmerge.federation.checks import check_update, limit_of
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.messages.replies import Evaluated, Trained
from fedmerge.federation.messages.tensors import Tensors
from fedmerge.federation.plan.fault_injection import Fault, faults_for
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.plan.train_config import common_config, personal_config
from fedmerge.federation.server.failures import Failure, Failures, Wrong
from fedmerge.federation.server.requests import Reply, Request, no_tensors, read
from fedmerge.federation.server.secure_round import check_offer
from fedmerge.federation.simulated import SimulatedGrid
from fedmerge.models.state import State

Turn = Callable[[Request, int], None]
"""Called with a request to train and the number of hospitals that are through with it."""
UNTOLD = ("score", "memory")  # phases that leave no row in the history
TRAINING = ("train", "fine-tune")
TIMEOUT = 3600.0  # seconds for the replies to one request, without a deadline
LOADING = 60.0  # seconds for a hospital to start, where necessary, and to load its images and network


class ClientManager:
    """Sends requests to the hospitals of a registry and checks every reply, by the rules of a plan.

    Replies are taken one by one in the order of the hospitals' names, whatever order they arrive in, so the
    same replies give the same bits. A reply that is an error or fails a check (``checks``) is recorded, and
    ``failures`` decides what happens next: a hospital that is asked again keeps its place in the order.
    ``history`` has one row per round, phase and site.
    """

    def __init__(self, plan: FederationPlan, clients: ClientRegistry) -> None:
        self.plan = plan
        self.clients = clients
        self.history: list[dict[str, Any]] = []
        self.log = Failures(plan.federation)
        self.between: Callable[[], None] = lambda: None  # called wherever a run may be interrupted
        self.turn: Turn = lambda request, index: None
        self.run = secrets.token_hex(16)  # a unique name of this run, for the labels of secure sums
        self.summed: dict[str, tuple[str, ...]] = {}  # by images: the hospitals in sums under masks
        self.keys: Mapping[str, str] = {}  # the public keys of the admitted hospitals, by name

    @property
    def failures(self) -> list[Failure]:
        """Every attempt that gave no usable reply."""
        return self.log.records

    def send(self, grid: Grid, messages: list[Message]) -> Iterable[Message]:
        """Send messages; the grid waits for replies until the deadline, or ``TIMEOUT`` without one.

        Each hospital has that time and ``LOADING`` seconds to load its images; in a simulation, where
        hospitals wait for each other, from the start of its turn. The hospital's own clock decides whether it
        is late (``requests.late``).
        """
        deadline = self.plan.federation.deadline
        wait = None if deadline is None else deadline + LOADING
        if isinstance(grid, SimulatedGrid):
            return grid.ask(messages, wait)
        return grid.send_and_receive(messages, timeout=TIMEOUT if wait is None else wait)

    def mark_absent(self, absent: Mapping[str, Wrong]) -> None:
        """Record the hospitals that do not take part. Raises FedMergeError below the quorum."""
        for name, wrong in absent.items():
            self.log.happened(0, "greeting", name, wrong)
        if absent:
            self.log.check_quorum(0, "greeting", len(self.clients), len(self.clients) + len(absent))

    def ask(self, grid: Grid, request: Request, before: int = 0) -> Iterator[Reply]:
        """Send a request; yield the usable replies as ``replies`` does."""
        return self.replies(grid, request, self.send(grid, request.messages()), before)

    def replies(
        self, grid: Grid, request: Request, messages: Iterable[Message], before: int = 0
    ) -> Iterator[Reply]:
        """Yield the usable replies one by one in the registry's order; record the others as failures.

        With ``on_failure: retry`` a hospital is asked again when its turn comes, but not one that is late,
        because the round is over then; the deadline holds for each attempt. Raises FedMergeError after the
        last reply if fewer than the quorum are usable. before: how many other hospitals gave a usable reply
        to the same request in an earlier process.
        """
        usable = before
        for reply in self.usable(request, messages, grid):
            usable += 1
            if request.phase not in UNTOLD and not request.secret:
                where = {"round": request.round, "phase": request.phase, "site": reply.client.name}
                self.history.append(where | reply.metrics)
            yield reply
        self.log.check_quorum(request.round, request.phase, usable, len(request.clients) + before)

    def usable(
        self, request: Request, messages: Iterable[Message], grid: Grid | None = None
    ) -> Iterator[Reply]:
        """Yield usable replies as ``replies`` does, without a quorum. grid: to ask again; None: never."""
        rules = self.plan.federation
        attempts = rules.attempts if grid is not None else 1
        told = self.turn if request.phase in TRAINING and request.clients else lambda request, index: None
        told(request, 0)
        for index, (client, reply_message) in enumerate(request.clients.in_order(messages)):
            for attempt in range(1, attempts + 1):
                if attempt > 1 and grid is not None:
                    messages = [request.ask(client, attempt)]
                    reply_message = next(iter(self.send(grid, messages)), None)
                where = (request.round, request.phase, client.name)
                injected = request.injected(client, attempt)
                reply = read(request, client, reply_message, rules.deadline)
                if isinstance(reply, Reply):
                    if injected:
                        self.log.counted(*where, attempt, injected)
                    yield reply
                    break
                last = attempt == attempts or reply.kind == "late"
                self.log.happened(*where, reply, attempt, last=last, injected=injected)
                if last:
                    break
            told(request, index + 1)
            if client is not request.clients[-1] and request.phase != "validate":
                self.between()

    def training(
        self,
        round: int,
        phase: str,
        job: dict[str, Any],
        arrays: ArrayRecord | None,
        sent: State,
        clients: ClientRegistry,
        label: str | None = None,
    ) -> Request:
        """Return the request to train. sent: the weights in ``arrays``, or any of the network, for checks.

        label: of a secure sum; the hospitals then reply with keys.
        """
        kind = "train" if label is None else "train.secure"
        job = job if label is None else job | {"label": label, "batch_norm": self.plan.batch_norm}
        rules, last = self.plan.federation, self._last_rounds(round)

        def faults(client: Client, attempt: int) -> tuple[Fault, ...]:
            return faults_for(rules.faults, self.plan.seed, round, client.name, attempt)

        def ask(client: Client, attempt: int) -> Message:
            stateful = "personal" in job or "control" in job
            own: dict[str, Any] = {"since": last.get(client.name, 0)} if stateful else {}
            spoilt = [fault.told() for fault in faults(client, attempt)]
            own |= {"faults": spoilt} if spoilt else {}
            return request_message(kind, client.node_id, str(round), job | own, arrays)

        def injected(client: Client, attempt: int) -> str:
            return ", ".join(fault.kind for fault in faults(client, attempt))

        def check(reply: Reply) -> str | None:
            assert isinstance(reply.body, Trained)
            if reply.body.forgot:
                self.log.began_anew(round, phase, reply.client.name, last.get(reply.client.name, 0))
            return check_update(reply.state or {}, sent, rules.max_norm, limit)

        if label is not None:
            offered = check_offer(label, self.keys)
            return Request(kind, round, phase, clients, ask, no_tensors, offered, injected, secret=True)
        tensors, limit = Tensors.like(sent), limit_of(sent)
        return Request(kind, round, phase, clients, ask, lambda client: tensors, check, injected)

    def evaluation(
        self,
        round: int,
        phase: str,
        state: State | ArrayRecord,
        clients: ClientRegistry,
        *,
        calibrate: bool = False,
        own: bool = False,
        label: str | None = None,
    ) -> Request:
        """Return the request to score ``state`` on the validation images of ``clients``.

        calibrate: whether hospitals fit a temperature, too. own: whether each uses its own personal part of
        the model. label: of a secure sum; the hospitals then reply with keys.
        """
        job = common_config(self.plan) | ({"calibrate": True} if calibrate else {})
        job |= personal_config(self.plan) if own else {}
        job |= {} if label is None else {"label": label}
        kind = "evaluate" if label is None else "evaluate.secure"
        arrays = state if isinstance(state, ArrayRecord) else lend(state)

        def ask(client: Client, attempt: int) -> Message:
            return request_message(kind, client.node_id, f"{phase} {round}", job, arrays)

        def check(reply: Reply) -> str | None:
            assert isinstance(reply.body, Evaluated)
            if calibrate != (reply.body.temperature is not None):
                return "it does not say its temperature" if calibrate else "it says a temperature, unasked"
            return None

        if label is not None:
            return Request(kind, round, phase, clients, ask, check=check_offer(label, self.keys), secret=True)
        return Request(kind, round, phase, clients, ask, check=check)

    def _last_rounds(self, before: int) -> dict[str, int]:
        """Return each hospital's last round of training before ``before`` that is in the history."""
        rows = [row for row in self.history if row["phase"] == "train" and row["round"] < before]
        return {row["site"]: row["round"] for row in rows}

    def rows(self, since: tuple[int, int] = (0, 0)) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return ``history`` and ``failures`` as rows, from these positions on."""
        return self.history[since[0] :], [asdict(failure) for failure in self.failures[since[1] :]]

    def take_rows(
        self,
        history: list[dict[str, Any]],
        failures: list[dict[str, Any]],
        at: tuple[int, int] = (0, 0),
    ) -> None:
        """Put the rows of an earlier process before those of this one; keep a failure that both have once.

        at: the positions in history and failures at which they are inserted.
        """
        before = [Failure(**row) for row in failures]
        self.history[at[0] : at[0]] = history
        rest = [failure for failure in self.log.records[at[1] :] if failure not in before]
        self.log.records[at[1] :] = before + rest
