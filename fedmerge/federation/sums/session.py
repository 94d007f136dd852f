"""A hospital's session: its state between two questions about sums over its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.schema.jobs import SumsBeginJob
from fedmerge.federation.sums.ledger import Names
from fedmerge.federation.sums.masks import Entries, asked_about, begun_with, entries_of
from fedmerge.federation.sums.noise import question_digest
from fedmerge.federation.sums.packing import WALKING
from fedmerge.merging.matching.statistics import LocalStatistics
from fedmerge.models.graph import Program
from fedmerge.models.state import State


@dataclass(eq=False)
class Parents:
    """The states of the models to be fused, in order; all hospitals of a process share them."""

    states: list[State]
    _begun: tuple[SumsBeginJob, str] | None = None

    def begun(self, job: SumsBeginJob) -> str:
        """Return a digest of the states and of their job (``masks.begun_with``)."""
        if self._begun is None or self._begun[0] != job:
            self._begun = job, begun_with(job, join_models(self.states))
        return self._begun[1]


@dataclass
class Session:
    """A session of sums: the parents and the hospital's own share, ready to answer questions.

    job: the one that began it. statistics: over the whole share; with noise, one for each of its images.
    names: of the images, in the ledger. begun, walked, last: with noise, hashes of the session's beginning,
    of the walk so far, and of the last question. entries: digests of the current fused model; None unless
    all of it came with questions for sums under masks.
    """

    job: SumsBeginJob
    parents: Parents
    program: Program
    statistics: list[LocalStatistics]
    names: Names
    images: int
    begun: str = ""
    walked: str = ""
    last: str = ""
    entries: Entries | None = None

    @property
    def id(self) -> str:
        """The server's name for the session."""
        return self.job.session

    def digest(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return the digest of a question just answered; it is the same at every hospital."""
        return asked_about(self.parents.begun(self.job), kind, options, tensors, self.entries or {})

    def take(self, kind: str, tensors: Mapping[str, Tensor], masked: bool) -> None:
        """Note a question's changes to the fused model. masked: whether it asks for sums under masks.

        Raises FedMergeError if the question's digest would not cover everything that its answer depends on.
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

    def told(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Return a hash of a question and of all that its answer depends on; the same if it is repeated."""
        if kind == "walk" or kind not in WALKING:
            found = question_digest(self.begun, kind, options, tensors)
        else:
            own = question_digest("", kind, options, tensors)
            found = self.walked if own == self.last else question_digest(self.walked, kind, options, tensors)
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
