"""Control variates of SCAFFOLD: both sides compute the same change of them from one hospital's update.

Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1 with option II. Hospital i takes K local steps from the
global weights x,

    y <- y - eta_k (g_i(y) - c_i + c),            y_i = y after the last step,

with c the server's control variate and c_i its own, and then, with the steps' learning rates eta_k,

    c_i <- c_i + d_i,       d_i = (x - y_i) / sum_k eta_k - c,

which makes c_i the mean of its gradients along the way. The server knows x, c, y_i and the learning rates, so it
computes d_i itself and none is sent: a message to a hospital is twice as long as without, a reply is not.

A parameter that learns in some of the steps alone (an encoder while the head is probed) has the sum over those,
and one that does not learn has d_i = 0. Batch-norm statistics have no control variate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators import Update
from fedmerge.federation.arrays import lend
from fedmerge.federation.client_state import ClientState, parameters_of, personal_entries
from fedmerge.federation.plan import FederationPlan
from fedmerge.federation.schema.jobs import TrainJob
from fedmerge.federation.schema.networks import tensors_of
from fedmerge.federation.schema.tensors import Tensors
from fedmerge.federation.train_config import round_span
from fedmerge.models.state import State, non_finite
from fedmerge.models.zoo import ModelSpec
from fedmerge.training import TrainingOptions
from fedmerge.training.local import batch_sizes
from fedmerge.training.recipe import probing_epochs
from fedmerge.training.schedule import learning_rates

PREFIX = "control/"
"""Before the names of the server's control variate in a message and in the server's state."""


def sent_tensors(job: TrainJob) -> Tensors:
    """Return the schema of the arrays in a training job: the weights, and the server's control variate."""
    forms = dict(tensors_of(job.model).forms)
    if job.control:
        forms |= {PREFIX + name: forms[name] for name in parameters_of(job.model)}
    return Tensors(forms)


def divided(sent: State) -> tuple[State, State]:
    """Divide the arrays of a training job into the weights and the server's control variate, by plain names."""
    control = {key.removeprefix(PREFIX): value for key, value in sent.items() if key.startswith(PREFIX)}
    return {key: value for key, value in sent.items() if not key.startswith(PREFIX)}, control


def rate_sums(
    spec: ModelSpec, options: TrainingOptions, images: int, span: tuple[float, float]
) -> dict[str, float]:
    """Return the sum of the learning rates of the steps in which each parameter learns, by name.

    images: of the hospital's training. span: the part of the learning-rate schedule.
    """
    sizes = batch_sizes(images, options.batch_size)
    rates = learning_rates(options.schedule, options.lr, options.epochs * len(sizes), span)
    probing = probing_epochs(options)
    head = personal_entries(spec, "head") if probing else ()
    whole, after = sum(rates), sum(rates[probing * len(sizes) :])
    return {name: whole if name in head else after for name in parameters_of(spec)}


def change(control: State, start: State, after: State, sums: Mapping[str, float]) -> State:
    """Return d_i in float64, by parameter. control: c as it was sent. start, after: x and y_i."""
    return {
        name: (start[name].double() - after[name].double()) / total - control[name].double()
        if total
        else torch.zeros_like(control[name], dtype=torch.float64)
        for name, total in sums.items()
    }


class HospitalControl:
    """A hospital's side of one round: the correction of its gradients, then its new control variate.

    memory: its client state, with c_i after its last two rounds. The job says after which of its rounds the
    server has its update; c_i is that of this round, so an update that did not arrive changes nothing. lost:
    whether it should have a c_i and has none; it begins with zero then.
    """

    def __init__(self, job: TrainJob, start: State, control: State, memory: ClientState, images: int) -> None:
        """start, control: x and c. Raises FedMergeError if c is not finite."""
        if broken := non_finite(control):
            raise FedMergeError(
                f"the server's control variate is not finite in '{broken[0]}', so no step is taken by it: the "
                "rounds before diverged (lower training.lr), or the server is hostile."
            )
        kept = memory.after(job.since)
        self.lost = kept is None
        self._own: State = kept or {name: torch.zeros_like(value) for name, value in control.items()}
        self._job, self._start, self._control, self._memory = job, start, control, memory
        self._sums = rate_sums(job.model, job.training, images, job.span)

    @property
    def correction(self) -> dict[str, Tensor]:
        """c - c_i, to be added to every gradient."""
        return {name: value - self._own[name] for name, value in self._control.items()}

    def keep(self, after: State) -> None:
        """Keep the new c_i. after: y_i."""
        moved = change(self._control, self._start, after, self._sums)
        new = {name: (self._own[name].double() + d).to(self._own[name].dtype) for name, d in moved.items()}
        self._memory.keep(self._job.round, new, self._job.since)


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
        self._c = {
            name: torch.zeros(forms[name].shape, dtype=torch.float64) for name in parameters_of(spec)
        }

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
