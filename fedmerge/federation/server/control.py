"""The server's side of control variates: c over the rounds, and its change in one round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord

from fedmerge.federation.aggregators import Update
from fedmerge.federation.arrays import lend
from fedmerge.federation.messages.control_variates import PREFIX, change, divided, rate_sums
from fedmerge.federation.messages.networks import tensors_of
from fedmerge.federation.plan.personal import parameters_of
from fedmerge.federation.plan.plan import FederationPlan
from fedmerge.federation.plan.train_config import round_span
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec


@dataclass(frozen=True)
class RoundControl:
    """The control variates of one round, for an aggregator.

    sent, control: x and c as they were sent. images: of all hospitals, for training.
    """

    plan: FederationPlan
    round: int
    sent: State
    control: State
    images: float

    def change(self, update: Update) -> State:
        """Return the change of a hospital's control variate, from its update."""
        span = round_span(self.plan, self.round)
        sums = rate_sums(self.plan.model, self.plan.local, int(update.images), span)
        return change(self.control, self.sent, update.state, sums)


class ServerControl:
    """The server's side: c over the rounds, in float64. It begins with zero."""

    def __init__(self, spec: ModelSpec) -> None:
        forms = tensors_of(spec).forms
        self._c = {name: torch.zeros(forms[name].shape, dtype=torch.float64) for name in parameters_of(spec)}

    def sent(self, start: State) -> State:
        """Return c in the dtypes of the weights, as the hospitals get it."""
        return {name: value.to(start[name].dtype) for name, value in self._c.items()}

    def lent(self, start: State) -> ArrayRecord:
        """Return the arrays of a training job: the weights and c."""
        return lend(start | {PREFIX + name: value for name, value in self.sent(start).items()})

    def add(self, step: State) -> None:
        """Add a round's change of c."""
        self._c = {name: value + step[name] for name, value in self._c.items()}

    def state_dict(self) -> State:
        """Return c as ``control/NAME``."""
        return {PREFIX + name: value.clone() for name, value in self._c.items()}

    def load_state_dict(self, state: State) -> State:
        """Load c from a state; return the entries that are not its own."""
        rest, own = divided(state)
        self._c = {name: own[name].clone() for name in self._c} if own else self._c
        return rest
