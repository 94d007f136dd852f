"""A hospital's side of control variates: the correction of its gradients, and what it keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.messages.client_state import ClientState
from fedmerge.federation.messages.control_variates import change, rate_sums
from fedmerge.federation.messages.jobs import TrainJob
from fedmerge.models.state import State, non_finite


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
                f"the server's control variate is not finite in '{broken[0]}', so no step is taken by it: "
                "the rounds before diverged (lower training.lr), or the server is hostile."
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
