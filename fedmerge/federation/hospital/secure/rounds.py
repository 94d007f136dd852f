"""A hospital's side of secure sums: four replies, after which the server has the sum and nothing else.

A hospital ``offer``s keys; sends ``shares`` of the secrets behind its masks, encrypted for each other
hospital; sends its numbers ``masked``; and, once the survivors are known, sends the shares that ``unmask``
their sum: for each hospital either the share of its own mask or that of its masking key, never both. If a
hospital was lost in between, the others first ``confirm`` the list of survivors to each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from flwr.app import Message

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.secure.ledger import SecureLedger, Subject
from fedmerge.federation.hospital.secure.peers import Peers
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.hospital.secure.shares import OpenSum, open_shares, split_secrets
from fedmerge.federation.messages.fields import Told
from fedmerge.federation.messages.reading import read_job, read_tensors
from fedmerge.federation.messages.records import reply_message
from fedmerge.federation.messages.secure import ConfirmJob, MaskedJob, SharesJob, UnmaskJob
from fedmerge.federation.messages.tensors import NO_TENSORS
from fedmerge.federation.privacy.identity import Identity, signed
from fedmerge.federation.privacy.secure_keys import (
    NUMBERS,
    check_list,
    make_advert,
    purpose_of,
    to_bytes,
    to_tensor,
    vote,
)
from fedmerge.federation.privacy.secure_sum import Words, mask, new_secret, public_of, threshold
from fedmerge.models.state import State

SUM = 2**62  # the limit of a sum's absolute value


class Together(Protocol):
    """The part of a ledger of sums over images that secure sums need."""

    def check_together(self, number: str, hospitals: Sequence[str]) -> None:
        """Raise FedMergeError if the images of a set were summed with another list of hospitals."""

    def record_together(self, number: str, hospitals: Sequence[str]) -> None:
        """The same, and record the list."""


class SecureHospital:
    """One hospital in secure sums, with its private keys and its state between two replies.

    folder: of its node, with its key, its peers and its ledger; None in a simulation, where it makes its own
    key, accepts every peer, and keeps its ledger in memory. images: the ledger that records the hospitals
    with which sums over a set of images were given.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None = None,
        rules: SecureRules | None = None,
        images: Together | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.rules = rules or SecureRules()
        self.ledger = SecureLedger(folder, name)
        self.peers = Peers(folder, self.rules)
        self.images = images
        self._identity: Identity | None = None
        self._sum: OpenSum | None = None

    def offer(self, subject: Subject, words: Words) -> dict[str, str]:
        """Keep numbers until they are requested; return the signed public keys made for their sum."""
        if self._identity is None:
            self._identity = Identity.fresh() if self.folder is None else Identity.of(self.folder)
        masking, sharing, own = new_secret(), new_secret(), new_secret()
        keys = public_of(masking), public_of(sharing)
        advert = make_advert(self._identity, subject.label, self.name, *keys)
        self._sum = OpenSum(subject, words, masking, sharing, own, advert)
        return advert.model_dump()

    def shares(self, message: Message) -> Message:
        """Reply with the shares of this hospital's two secrets, encrypted for each other participant.

        Raises FedMergeError for a list that ``check_list`` or ``Peers.check`` refuses, and for a second list.
        """
        job = _read(message, SharesJob)
        now = self._now(job.label)
        adverts = check_list(job.adverts, now.advert, self.rules.hospitals)
        if now.adverts and now.adverts != adverts:
            raise FedMergeError(
                f"hospital '{self.name}' has given its shares for another list of '{job.label}'."
            )
        if not now.adverts:
            self.peers.check({name: advert.identity for name, advert in adverts.items()}, self.name)
            now.adverts = adverts
            now.given = split_secrets(now, self.name)
        shares = {name: text for name, text in now.given.items() if name != self.name}
        said = {"shares": json.dumps(shares), "commitment": hashlib.sha256(now.own).hexdigest()}
        return reply_message(message, {}, texts=said)

    def masked(self, message: Message) -> Message:
        """Reply with the masked numbers: int64, modulo 2^64.

        Raises FedMergeError for too few participants, shares that a participant did not write for this
        hospital, numbers that were given for other participants, and numbers whose sum could overflow.
        """
        job = _read(message, MaskedJob)
        now = self._now(job.label)
        parties = self._among(job.parties, list(now.adverts), now)
        if now.parties and now.parties != parties:
            raise FedMergeError(
                f"hospital '{self.name}' has masked its numbers of '{job.label}' for other participants."
            )
        if now.words is None:
            raise FedMergeError(f"hospital '{self.name}' has no numbers of '{job.label}' any more.")
        _check_size(now.words, len(parties))
        others = [name for name in parties if name != self.name]
        held = {name: open_shares(now, name, self.name, job.shares.get(name, "")) for name in others}
        if self.images is not None and now.subject.images:
            self.images.check_together(now.subject.images, parties)
        self.ledger.join(now.subject, parties)
        now.parties, now.held = parties, held | {self.name: now.given[self.name]}
        publics = {name: bytes.fromhex(now.adverts[name].masking) for name in parties}
        numbers = mask(now.words, self.name, now.own, now.masking, publics, purpose_of(now.adverts, parties))
        return reply_message(message, {}, {NUMBERS: torch.from_numpy(numbers.view(np.int64))})

    def confirm(self, message: Message) -> Message:
        """Reply with a signature of the survivors. Raises FedMergeError for another list than before."""
        job = _read(message, ConfirmJob)
        now = self._now(job.label)
        survivors = self._among(job.survivors, now.parties, now)
        self._vote(now, survivors)
        assert self._identity is not None
        signature = self._identity.sign(vote(now.adverts, now.parties, survivors))
        return reply_message(message, {}, texts={"signature": signature})

    def unmask(self, message: Message) -> Message:
        """Reply with a share of each survivor's own mask, and of each lost participant's masking key.

        Raises FedMergeError for another list than before, for too few survivors, and, if participants were
        lost, for survivors that too few of them have confirmed.
        """
        job = _read(message, UnmaskJob)
        now = self._now(job.label)
        survivors = self._among(job.survivors, now.parties, now)
        if survivors != now.parties:
            self._check_confirmed(now, survivors, job.confirmed)
        self._vote(now, survivors)
        now.words = None
        alive = set(survivors)
        own = {name: text[:64] for name, text in now.held.items() if name in alive}
        pair = {name: text[64:] for name, text in now.held.items() if name not in alive}
        return reply_message(message, {}, texts={"own": json.dumps(own), "pair": json.dumps(pair)})

    def _vote(self, now: OpenSum, survivors: list[str]) -> None:
        """Record the survivors. Raises FedMergeError if these numbers or images went into another sum."""
        if self.images is not None and now.subject.images:
            self.images.record_together(now.subject.images, survivors)
        self.ledger.vote(now.subject, survivors)

    def _now(self, label: str) -> OpenSum:
        if self._sum is None or self._sum.subject.label != label:
            raise FedMergeError(
                f"hospital '{self.name}' has no numbers of '{label}' to be summed: its process was started "
                "anew, or it did not answer before."
            )
        return self._sum

    def _among(self, names: Sequence[str], known: Sequence[str], now: OpenSum) -> list[str]:
        """Return the names sorted. Raises FedMergeError unless enough, known, and with this hospital."""
        wanted = sorted(set(names))
        least = max(threshold(len(now.adverts)), self.rules.hospitals)
        if len(wanted) != len(names) or not set(wanted) <= set(known) or self.name not in wanted:
            raise FedMergeError(
                f"a list in '{now.subject.label}' is not one of its participants with '{self.name}' in it."
            )
        if len(wanted) < least:
            raise FedMergeError(
                f"a sum of {len(now.adverts)} hospitals takes at least {least} to the end, but "
                f"'{now.subject.label}' has {len(wanted)}: a smaller sum says too much about each."
            )
        return wanted

    def _check_confirmed(self, now: OpenSum, survivors: list[str], confirmed: Mapping[str, str]) -> None:
        said = vote(now.adverts, now.parties, survivors)
        count = sum(
            name in confirmed and signed(now.adverts[name].identity, said, confirmed[name])
            for name in survivors
        )
        if count < threshold(len(now.adverts)):
            raise FedMergeError(
                f"{count} hospitals have confirmed who is left in '{now.subject.label}', and it takes "
                f"{threshold(len(now.adverts))}: else a server could tell each something else."
            )

    def state_dict(self) -> State:
        """Return the sum in progress, for a process that ends between two replies; it holds private keys.

        Without a folder, also this hospital's key and ledger.
        """
        kept: State = {}
        if self.folder is None and (self._identity is not None or self.ledger.memory):
            private = "" if self._identity is None else self._identity.private().hex()
            kept["self"] = to_tensor(json.dumps({"key": private, "ledger": self.ledger.memory}).encode())
        if (now := self._sum) is not None:
            kept |= now.state_dict()
        return kept

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``."""
        self._sum = None
        if "self" in state:
            said = json.loads(to_bytes(state["self"]))
            self._identity = Identity.load(bytes.fromhex(said["key"])) if said["key"] else None
            self.ledger.memory[:] = said["ledger"]
        elif self.folder is None:
            self._identity = None
            self.ledger.memory.clear()
        else:
            self._identity = Identity.of(self.folder) if "sum" in state else None
        if "sum" in state:
            self._sum = OpenSum.of(state)


J = TypeVar("J", bound=Told)


def _read(message: Message, kind: type[J]) -> J:
    """Read the job of a message that must have no arrays."""
    read_tensors(message, NO_TENSORS)
    return read_job(message, kind)


def _check_size(words: Words, parties: int) -> None:
    """Raise FedMergeError if the sum over so many hospitals could reach 2^62 in absolute value."""
    signed = words.view(np.int64)
    largest = max(int(signed.max(initial=0)), -int(signed.min(initial=0)))
    if largest >= SUM // parties:
        raise FedMergeError(
            f"numbers are too large to be summed securely over {parties} hospitals ({largest / SUM:.3g} of "
            f"the range, and each has 1/{parties} of it)."
        )
