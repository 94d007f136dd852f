"""A hospital's side of a fusion for which its images stay there: it answers with sums over its share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import torch
from flwr.app import Message
from torch import Tensor

from fedmerge.data import Site, Split
from fedmerge.data.fusion import share
from fedmerge.errors import FedMergeError
from fedmerge.federation.records import reply
from fedmerge.federation.schema.jobs import SumsBeginJob, SumsJob
from fedmerge.federation.schema.networks import check_fits, tensors_of
from fedmerge.federation.schema.reading import has_tensors, read_job, read_tensors
from fedmerge.federation.schema.tensors import Tensors
from fedmerge.federation.sums.packing import MINIMUM, WALKING, pack
from fedmerge.federation.sums.questions import asked_with, check_question
from fedmerge.federation.sums.shelf import Shelf
from fedmerge.merging.matching.statistics import LocalStatistics
from fedmerge.models.graph import Program, follow
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec, build


@dataclass(frozen=True, eq=False)
class Parents:
    """The states of the models to be fused, in order; hospitals of one process hold them once."""

    states: list[State]


_HELD: WeakValueDictionary[str, Parents] = WeakValueDictionary()


@dataclass(frozen=True)
class Session:
    """What a hospital keeps between two questions: the parents and its own share, ready to answer."""

    id: str
    parents: Parents
    statistics: LocalStatistics
    images: int


class HospitalSums:
    """Answers ``query.sums_begin`` and ``query.sums`` over this hospital's share of images.

    One session is kept: the parents of one fusion and the share; in memory, or, with a shelf, there alone,
    for a hospital whose next message may meet another process. minimum: a share of fewer images is refused,
    because sums over few images say much about each.
    """

    def __init__(
        self, site: Site, device: str = "cpu", minimum: int = MINIMUM, shelf: Shelf | None = None
    ) -> None:
        self.site = site
        self.device = device
        self.minimum = minimum
        self.shelf = shelf
        self.session: Session | None = None

    def begin(self, message: Message) -> Message:
        """Take over the parents of a fusion, or, in a message without weights, say whether they are known.

        Raises FedMergeError for a share that is too small, or a model of other classes.
        """
        job = read_job(message, SumsBeginJob)
        session = self._find(job.session)
        if session is None:
            if not has_tensors(message):
                return reply(message, {"known": 0})
            check_fits(job.model, self.site)
            self.session = None  # its memory is free before the next is there
            session = self._open(job, parents_of(message, job))
            if self.shelf is None:
                self.session = session
            else:
                self.shelf.keep(session.id, job.model_dump(mode="json"), join_models(session.parents.states))
        return reply(message, {"known": 1, "images": session.images})

    def answer(self, message: Message) -> Message:
        """Sums that answer one question, float64; ``known`` is 0 where the session is not there any more."""
        job = read_job(message, SumsJob)
        session, kind = self._find(job.session), job.kind
        if session is None:
            return reply(message, {"known": 0})
        tensors = read_tensors(message, asked_with(session.statistics, kind, job.options))
        if self.shelf is not None and kind in WALKING and (fused := self.shelf.fused(session.id)):
            session.statistics.ask("walk", {}, fused)
        check_question(session.statistics, kind, job.options)
        sums = session.statistics.ask(kind, job.options, tensors)
        if self.shelf is not None:
            self.shelf.remember(session.id, kind, tensors)
        return reply(message, {"known": 1}, pack(kind, sums))

    def _find(self, session: str) -> Session | None:
        """The session that is kept, ready to answer, if it is this one."""
        if self.shelf is None:
            return self.session if self.session is not None and self.session.id == session else None
        kept = self.shelf.find(session)
        if kept is None:
            return None
        job, parents = SumsBeginJob.model_validate_json(json.dumps(kept[0])), kept[1]
        return self._open(job, Parents(split_models(parents, len(job.parents))))

    def _open(self, job: SumsBeginJob, parents: Parents) -> Session:
        held = self._share(job)
        program = program_of(job.model)
        own = job.parents.index(self.site.name) if self.site.name in job.parents else None
        statistics = LocalStatistics(
            program,
            [(program, state) for state in parents.states],
            job.normalisation(held.images.to(self.device)),
            held.labels.to(self.device),
            device=self.device,
            own=own,
        )
        return Session(job.session, parents, statistics, len(held))

    def _share(self, job: SumsBeginJob) -> Split:
        if self.site.name not in job.images:
            raise FedMergeError(f"the job asks for no images of site '{self.site.name}': leave it out.")
        held = share(self.site, job.images[self.site.name], job.split, job.seed)
        if len(held) < self.minimum:
            raise FedMergeError(
                f"site '{self.site.name}' gives sums over at least {self.minimum} images, because sums over "
                f"fewer say much about each, but its share of '{job.split}' has {len(held)}: ask for more "
                "images, take them from a larger split, or leave the site out."
            )
        return held


def parents_of(message: Message, job: SumsBeginJob) -> Parents:
    """The models in a message, or, where another hospital of this process holds the same ones, those."""
    held = _HELD.get(job.session)
    if held is None:
        forms = tensors_of(job.model).forms
        joined = {f"{m}/{key}": form for m in range(len(job.parents)) for key, form in forms.items()}
        held = Parents(split_models(read_tensors(message, Tensors(joined)), len(job.parents)))
        _HELD[job.session] = held
    return held


def join_models(states: list[State]) -> State:
    """M states in one: the entry ``key`` of model m becomes ``m/key``."""
    return {f"{m}/{key}": value for m, state in enumerate(states) for key, value in state.items()}


def split_models(joined: Mapping[str, Tensor], models: int) -> list[State]:
    """The inverse of :func:`join_models`."""
    states: list[State] = [{} for _ in range(models)]
    for name, value in joined.items():
        m, _, key = name.partition("/")
        states[int(m)][key] = value
    return states


def program_of(spec: ModelSpec) -> Program:
    """The operations of a network, derived once a process; it holds no weights and is shared."""
    return _program(spec.model_copy(update={"pretrained": False}).model_dump_json())


@lru_cache(maxsize=2)
def _program(spec: str) -> Program:
    known = ModelSpec.model_validate_json(spec)
    example = torch.zeros(2, known.in_channels, known.image_size, known.image_size)
    return follow(build(known, 0), example)
