"""How far the hospitals' training is, from the requests of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmerge.experiment.stages.record import Record

if TYPE_CHECKING:
    from fedmerge.federation import FederationPlan
    from fedmerge.federation.server.requests import Request


class TrainingProgress:
    """The training of a seed: its rounds, and one more for the fine-tuning, as parts of equal length.

    With k of the n hospitals of round r through, r - 1 + k/n rounds are done. So a hospital that is asked
    again counts once, one that does not take part not at all, and rounds of an earlier process count as done.
    """

    def __init__(self, seed: int, plan: FederationPlan, record: Record) -> None:
        self._text = f"seed {seed}: training"
        self._rounds = plan.rounds + (plan.fine_tune is not None)
        self._record = record
        self._done, self._share = 0.0, 0.0

    def turn(self, request: Request, index: int) -> None:
        """``index`` hospitals of a request are through, and the next one has its turn."""
        clients = request.clients
        self._share = 1 / len(clients)
        self._done = request.round - 1 + index * self._share
        name = clients[min(index, len(clients) - 1)].name
        self._record.show(f"{self._text}, {name}", self._done, self._rounds)

    def step(self, name: str, done: int, total: int) -> None:
        """Report the steps of the hospital that has its turn; its last is told by the next ``turn``."""
        if done < total:
            self._record.show(f"{self._text}, {name}", self._done + self._share * done / total, self._rounds)
