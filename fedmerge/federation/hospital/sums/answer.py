"""A hospital's side of remote statistics: it replies with sums over its share of images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from flwr.app import Message
from torch import Tensor

from fedmerge.data import Site, Split
from fedmerge.data.cohort.fusion import share
from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.sums.ledger import Ledger
from fedmerge.federation.hospital.sums.noise import add_noise, clipped_sums, noise_seed, request_digest
from fedmerge.federation.hospital.sums.rank import check_rows
from fedmerge.federation.hospital.sums.request_checks import check_request, request_tensors
from fedmerge.federation.hospital.sums.rules import SIMULATED, SumRules
from fedmerge.federation.hospital.sums.session import Parents, Session, join_models, split_models
from fedmerge.federation.hospital.sums.session_store import SessionStore
from fedmerge.federation.messages.jobs import SumsBeginJob, SumsJob
from fedmerge.federation.messages.networks import check_fits, tensors_of
from fedmerge.federation.messages.reading import has_tensors, read_job, read_tensors
from fedmerge.federation.messages.records import reply_message
from fedmerge.federation.messages.secure import SecureSumsJob
from fedmerge.federation.messages.tensors import Tensors
from fedmerge.federation.packing import WALKING, pack
from fedmerge.merging.neurons.statistics import LocalStatistics, Sums
from fedmerge.models.graph import Program, follow
from fedmerge.models.inputs import PER_SITE, Normalisation, PerSite
from fedmerge.models.zoo import ModelSpec, build

_HELD: WeakValueDictionary[str, Parents] = WeakValueDictionary()


@dataclass(frozen=True)
class Packed:
    """Packed sums, the name of their image set in the ledger, and, under masks, the request's digest."""

    sums: Sums
    images: str
    digest: str


class HospitalSums:
    """Answers requests about sums over this hospital's share of images.

    One session is kept: the parents of one fusion and the share; in memory, or, with a session store, only
    there, for a hospital whose next message may reach another process. rules: the hospital's own. folder: of
    the node, with the ledger; None: the ledger is in memory.

    Whatever sessions and weights the server uses, the ledger keeps it from singling out a few images by sets.
    It does not keep a server from crafting weights that single them out within a set; limits on the number of
    requests, and noise, do.
    """

    def __init__(
        self,
        site: Site,
        device: str = "cpu",
        rules: SumRules = SIMULATED,
        session_store: SessionStore | None = None,
        folder: Path | None = None,
    ) -> None:
        self.site = site
        self.device = device
        self.rules = rules
        self.session_store = session_store
        self.ledger = Ledger(None if folder is None else folder / "records", site.name, self.rules)
        self.session: Session | None = None

    def begin(self, message: Message) -> Message:
        """Take the parents of a fusion, or, for a message without weights, reply whether they are known.

        Raises FedMergeError for a share that is too small or too near an earlier one, or a model that does
        not fit the site.
        """
        job = read_job(message, SumsBeginJob)
        session = self._find(job.session)
        if session is None:
            if not has_tensors(message):
                return reply_message(message, {"known": 0})
            check_fits(job.model, self.site)
            self.session = None  # frees its memory before the next is read
            session = self._open(job, parents_of(message, job))
            if self.session_store is None:
                self.session = session
            else:
                self.session_store.keep(
                    session.id, job.model_dump(mode="json"), join_models(session.parents.states)
                )
        masked = message.metadata.message_type == "query.secure_sums_begin"
        return reply_message(message, {"known": 1} if masked else {"known": 1, "images": session.images})

    def reply(self, message: Message) -> Message:
        """Reply to one request with sums, float64; ``known`` is 0 if the session is lost.

        Raises FedMergeError for a request that the hospital's rules refuse.
        """
        found = self.packed(message, read_job(message, SumsJob))
        return (
            reply_message(message, {"known": 0})
            if found is None
            else reply_message(message, {"known": 1}, found.sums)
        )

    def packed(self, message: Message, job: SumsJob) -> Packed | None:
        """Return the packed sums that reply to one request; None if the session is lost.

        Raises FedMergeError for a request that the hospital's rules refuse.
        """
        session, kind = self._find(job.session), job.kind
        if session is None:
            return None
        masked = isinstance(job, SecureSumsJob)
        tensors = read_tensors(message, request_tensors(session.statistics[0], kind, job.options))
        if (
            self.session_store is not None
            and kind in WALKING
            and (fused := self.session_store.fused(session.id))
        ):
            self._ask(session, "walk", {}, fused, masked)
        check_request(session.statistics[0], kind, job.options)
        packed = self._ask(session, kind, job.options, tensors, masked)
        if self.session_store is not None:
            self.session_store.remember(session.id, kind, tensors)
        digest = session.digest(kind, job.options, tensors) if masked else ""
        return Packed(packed, self.ledger.number(session.names), digest)

    def _ask(
        self,
        session: Session,
        kind: str,
        options: dict[str, Any],
        tensors: Mapping[str, Tensor],
        masked: bool,
    ) -> dict[str, Tensor]:
        """Return packed sums, after checking the rules and recording the request in the ledger."""
        states, program, rules = session.parents.states, session.program, self.rules
        different = len({name.partition("#")[0] for name in session.names})
        check_rows(program, states[0], len(states), kind, options, different, rules.rows)
        if rules.noise is None:
            (statistics,) = session.statistics
            if kind != "walk":
                self.ledger.record(session.names, kind)
            session.take(kind, tensors, masked)
            return pack(kind, statistics.ask(kind, options, tensors))
        digest = session.noise_digest(kind, options, tensors)
        session.take(kind, tensors, masked)
        sums, bounds = clipped_sums(session.statistics, program, kind, options, tensors, rules)
        if kind != "walk":
            self.ledger.record(session.names, kind, digest, len(bounds))
        return add_noise(sums, bounds, rules.noise, noise_seed(self.ledger.key, digest))

    def _find(self, session: str) -> Session | None:
        """Return the kept session, ready to answer, if it is ``session``; else None."""
        if self.session_store is None:
            return self.session if self.session is not None and self.session.id == session else None
        kept = self.session_store.find(session)
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
        images = self._normalisation(job)(held.images.to(self.device))
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
        session = Session(job, parents, program, statistics, names, len(held))
        if self.rules.noise is not None:
            about = job.model_dump(mode="json", include={"model", "normalisation"})
            about |= {"images": sorted(names), "own": own}
            session.start_digest = request_digest("", "begin", about, join_models(parents.states))
        return session

    def _normalisation(self, job: SumsBeginJob) -> Normalisation:
        """Return this hospital's normalisation. Raises FedMergeError where noise could not cover it."""
        if self.rules.noise is not None and isinstance(job.normalisation, PerSite):
            raise FedMergeError(
                f"site '{self.site.name}' adds noise that hides one image in a sum, but with normalisation: "
                f"{PER_SITE} every image changes what all others are divided by: choose another one."
            )
        return job.normalisation.at(self.site)

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
    """Return the models in a message, or those of the session that this process already holds."""
    held = _HELD.get(job.session)
    if held is None:
        forms = tensors_of(job.model).forms
        joined = {f"{m}/{key}": form for m in range(len(job.parents)) for key, form in forms.items()}
        held = Parents(split_models(read_tensors(message, Tensors(joined)), len(job.parents)))
        _HELD[job.session] = held
    return held


def program_of(spec: ModelSpec) -> Program:
    """Return the operations of a network, derived once per process; they hold no weights and are shared."""
    return _program(spec.untrained().model_dump_json())


@lru_cache(maxsize=2)
def _program(spec: str) -> Program:
    known = ModelSpec.model_validate_json(spec)
    example = torch.zeros(2, known.in_channels, known.image_size, known.image_size)
    return follow(build(known, 0), example)
