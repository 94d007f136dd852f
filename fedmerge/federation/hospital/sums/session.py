"""A hospital's session: its state between two requests about sums over its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.sums.ledger import Names
from fedmerge.federation.hospital.sums.masks import Entries, entries_of, masked_digest, start_digest_of
from fedmerge.federation.hospital.sums.noise import request_digest
from fedmerge.federation.messages.jobs import SumsBeginJob
from fedmerge.federation.packing import WALKING
from fedmerge.merging.neurons.statistics import LocalStatistics
from fedmerge.models.graph import Program
from fedmerge.models.state import State


@dataclass(eq=False)
class Parents:
    """The states of the models to be fused, in order; all hospitals of a process share them."""

    states: list[State]
    _start_digest: tuple[SumsBeginJob, str] | None = None

    def start_digest(self, job: SumsBeginJob) -> str:
        """Return a digest of the states and of their job (``masks.start_digest_of``)."""
        if self._start_digest is None or self._start_digest[0] != job:
            self._start_digest = job, start_digest_of(job, join_models(self.states))
        return self._start_digest[1]


@dataclass
class Session:
    """A session of sums: the parents and the hospital's own share, ready to answer requests.

    job: the one that began it. statistics: over the whole share; with noise, one for each of its images.
    names: of the images, in the ledger. start_digest, walked, last: with noise, hashes of its beginning,
    of the walk so far, and of the last request. entries: digests of the current fused model; None unless
    all of it came with requests for sums under masks.
    """

    job: SumsBeginJob
    parents: Parents
    program: Program
    statistics: list[LocalStatistics]
    names: Names
    images: int
    start_digest: str = ""
    walked: str = ""
    last: str = ""
    entries: Entries | None = None

    @property
    def id(self) -> str:
        """The server's name for the session."""
        return self.job.session

    def digest(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return the digest of a request just answered; it is the same at every hospital."""
        return masked_digest(self.parents.start_digest(self.job), kind, options, tensors, self.entries or {})

    def take(self, kind: str, tensors: Mapping[str, Tensor], masked: bool) -> None:
        """Note a request's changes to the fused model. masked: whether it asks for sums under masks.

        Raises FedMergeError if the request's digest would not cover everything that its reply depends on.
        """
        if kind != "walk" and kind not in WALKING:
            return
        if not masked:
            self.entries = None
            return
        known = {} if kind == "walk" else self.entries
        if known is None:
            raise FedMergeError(
                "the walk through the fused model began in the open: begin it anew for sums under masks."
            )
        late = self.statistics[0].passed(tensors) if kind in WALKING else []
        if late:
            raise FedMergeError(
                f"'{late[0]}' cannot be changed any more: the walk through the fused model is past it."
            )
        self.entries = known | entries_of(tensors)

    def noise_digest(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return a hash of a request and of all that its reply depends on; the same if it is repeated."""
        if kind == "walk" or kind not in WALKING:
            found = request_digest(self.start_digest, kind, options, tensors)
        else:
            own = request_digest("", kind, options, tensors)
            found = self.walked if own == self.last else request_digest(self.walked, kind, options, tensors)
            self.last = own
        if kind in ("walk", *WALKING):
            self.walked = found
        if kind == "walk":
            self.last = ""
        return found


def join_models(states: list[State]) -> State:
    """Join M states into one: the entry ``key`` of model m becomes ``m/key``."""
    return {f"{m}/{key}": value for m, state in enumerate(states) for key, value in state.items()}


def split_models(joined: Mapping[str, Tensor], models: int) -> list[State]:
    """Split joined states again, the inverse of :func:`join_models`."""
    states: list[State] = [{} for _ in range(models)]
    for name, value in joined.items():
        m, _, key = name.partition("/")
        states[int(m)][key] = value
    return states
