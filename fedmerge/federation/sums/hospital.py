"""A hospital's side of a fusion for which its images stay there: it answers with sums over its share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
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
from fedmerge.federation.sums.ledger import Ledger, Names
from fedmerge.federation.sums.noise import add_noise, clipped_sums, noise_seed, question_digest
from fedmerge.federation.sums.packing import WALKING, pack
from fedmerge.federation.sums.questions import asked_with, check_question
from fedmerge.federation.sums.rank import check_rows
from fedmerge.federation.sums.rules import SIMULATED, SumRules
from fedmerge.federation.sums.shelf import Shelf
from fedmerge.merging.matching.statistics import LocalStatistics, Sums
from fedmerge.models.graph import Program, follow
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec, build


@dataclass(frozen=True, eq=False)
class Parents:
    """The states of the models to be fused, in order; hospitals of one process hold them once."""

    states: list[State]


_HELD: WeakValueDictionary[str, Parents] = WeakValueDictionary()


Cover = Callable[[SumsJob, Sums], dict[str, Tensor]]
"""Puts packed sums under masks before they leave, given the job that asked for them."""


@dataclass
class Session:
    """What a hospital keeps between two questions: the parents and its own share, ready to answer.

    statistics: over the whole share; or, where sums are noised, over each of its images. names: the images',
    in the ledger. begun, walked, last: hashes of what the session began with, of the walk so far, and of the
    last question, where sums are noised.
    """

    id: str
    parents: Parents
    program: Program
    statistics: list[LocalStatistics]
    names: Names
    images: int
    begun: str = ""
    walked: str = ""
    last: str = ""

    def told(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """A hash of a question and of all that its answer depends on; a repeated one has the same."""
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


class HospitalSums:
    """Answers ``query.sums_begin`` and ``query.sums`` over this hospital's share of images.

    One session is kept: the parents of one fusion and the share; in memory, or, with a shelf, there alone,
    for a hospital whose next message may meet another process. rules: the hospital's own. folder:
    where the ledger outlives the process. cover: see ``Cover``.

    Whatever the server calls its sessions, and whatever weights it sends, the ledger keeps few images from
    being told apart by sets; what it does not keep is that weights are made to tell them apart within a set.
    Against that there are the number of questions, and noise.
    """

    def __init__(
        self,
        site: Site,
        device: str = "cpu",
        rules: SumRules = SIMULATED,
        shelf: Shelf | None = None,
        folder: Path | None = None,
        cover: Cover | None = None,
    ) -> None:
        self.site = site
        self.device = device
        self.rules = rules
        self.shelf = shelf
        self.ledger = Ledger(None if folder is None else folder / "records", site.name, self.rules)
        self.cover = cover
        self.session: Session | None = None

    def begin(self, message: Message) -> Message:
        """Take over the parents of a fusion, or, in a message without weights, say whether they are known.

        Raises FedMergeError for a share that is too small or too near another, or a model of other classes.
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
        """Sums that answer one question, float64; ``known`` is 0 where the session is not there any more.

        Raises FedMergeError for a question that the hospital's rules refuse.
        """
        job = read_job(message, SumsJob)
        session, kind = self._find(job.session), job.kind
        if session is None:
            return reply(message, {"known": 0})
        tensors = read_tensors(message, asked_with(session.statistics[0], kind, job.options))
        if self.shelf is not None and kind in WALKING and (fused := self.shelf.fused(session.id)):
            self._ask(session, "walk", {}, fused)
        check_question(session.statistics[0], kind, job.options)
        packed = self._ask(session, kind, job.options, tensors)
        if self.shelf is not None:
            self.shelf.remember(session.id, kind, tensors)
        return reply(message, {"known": 1}, packed if self.cover is None else self.cover(job, packed))

    def _ask(
        self, session: Session, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Packed sums, which the rules allow and the ledger knows of."""
        states, program, rules = session.parents.states, session.program, self.rules
        different = len({name.partition("#")[0] for name in session.names})
        check_rows(program, states[0], len(states), kind, options, different, rules.rows)
        if rules.noise is None:
            (statistics,) = session.statistics
            if kind != "walk":
                self.ledger.record(session.names, kind)
            return pack(kind, statistics.ask(kind, options, tensors))
        told = session.told(kind, options, tensors)
        sums, bounds = clipped_sums(session.statistics, program, kind, options, tensors, rules)
        if kind != "walk":
            self.ledger.record(session.names, kind, told, len(bounds))
        return add_noise(sums, bounds, rules.noise, noise_seed(self.ledger.key, told))

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
        names = self.ledger.names(held.images)
        self.ledger.check(names)
        program = program_of(job.model)
        own = job.parents.index(self.site.name) if self.site.name in job.parents else None
        images = job.normalisation(held.images.to(self.device))
        labels = held.labels.to(self.device)
        size = len(held) if self.rules.noise is None else 1
        statistics = [
            LocalStatistics(
                program,
                [(program, state) for state in parents.states],
                images[first : first + size],
                labels[first : first + size],
                device=self.device,
                own=own,
            )
            for first in range(0, len(held), size)
        ]
        session = Session(job.session, parents, program, statistics, names, len(held))
        if self.rules.noise is not None:
            about = job.model_dump(mode="json", include={"model", "normalisation"})
            about |= {"images": sorted(names), "own": own}
            session.begun = question_digest("", "begin", about, join_models(parents.states))
        return session

    def _share(self, job: SumsBeginJob) -> Split:
        if self.site.name not in job.images:
            raise FedMergeError(f"the job asks for no images of site '{self.site.name}': leave it out.")
        held = share(self.site, job.images[self.site.name], job.split, job.seed)
        if len(held) < self.rules.minimum_images:
            raise FedMergeError(
                f"site '{self.site.name}' gives sums over at least {self.rules.minimum_images} images, "
                f"because sums over fewer say much about each, but its share of '{job.split}' has "
                f"{len(held)}: ask for more images, take them from a larger split, or leave the site out."
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
