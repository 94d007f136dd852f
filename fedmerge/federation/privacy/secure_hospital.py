"""A hospital's part in secure sums: four answers, after which the server has a sum and nothing else.

``offer`` keys; ``shares`` of the secrets that masks are made of, encrypted for each other hospital; the
numbers, ``masked``; and, when it is known who got that far, the shares that ``unmask`` their sum: of each
hospital either the share of its own mask, or that of its key with the others, never both. Where somebody was
lost in between, hospitals ``confirm`` to each other who is left before they give any share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flwr.app import Message

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.identity import Identity, signed
from fedmerge.federation.privacy.ledger import SecureLedger, Subject
from fedmerge.federation.privacy.peers import Peers
from fedmerge.federation.privacy.secure_keys import (
    NUMBERS,
    check_list,
    make_advert,
    purpose_of,
    to_bytes,
    to_tensor,
    vote,
)
from fedmerge.federation.privacy.secure_rules import SecureRules
from fedmerge.federation.privacy.secure_sum import Words, agree, mask, new_secret, public_of, threshold
from fedmerge.federation.privacy.shamir import split
from fedmerge.federation.records import reply_message
from fedmerge.federation.schema.fields import Told
from fedmerge.federation.schema.reading import read_job, read_tensors
from fedmerge.federation.schema.secure import Advert, ConfirmJob, MaskedJob, SharesJob, UnmaskJob
from fedmerge.federation.schema.tensors import NO_TENSORS
from fedmerge.models.state import State

NONCE = bytes(12)  # each key encrypts one text
SUM = 2**62  # what a sum of numbers must stay below, with its sign


@dataclass
class _Sum:
    """One sum under way. words: the numbers, until they are unmasked; the rest as it becomes known."""

    subject: Subject
    words: Words | None
    masking: bytes
    sharing: bytes
    own: bytes
    advert: Advert
    adverts: dict[str, Advert] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    parties: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)


class Together(Protocol):
    """A ledger of sums over images, as far as secure sums know it."""

    def check_together(self, number: str, hospitals: Sequence[str]) -> None:
        """Raise FedMergeError where the images of a set were summed with another list of hospitals."""

    def record_together(self, number: str, hospitals: Sequence[str]) -> None:
        """The same, and remember the list."""


class SecureHospital:
    """One hospital in secure sums; what it keeps between two answers, with its private keys, stays here.

    folder: of its node, with its key, its peers and its ledger; None in a simulation, where it makes itself a
    key, believes everybody, and remembers as long as it lives. images: what remembers with whom sums over a
    set of images were given.
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
        self._sum: _Sum | None = None

    def offer(self, subject: Subject, words: Words) -> dict[str, str]:
        """Keep numbers until they are asked for; returns the public keys made for their sum, signed."""
        if self._identity is None:
            self._identity = Identity.fresh() if self.folder is None else Identity.of(self.folder)
        masking, sharing, own = new_secret(), new_secret(), new_secret()
        keys = public_of(masking), public_of(sharing)
        advert = make_advert(self._identity, subject.label, self.name, *keys)
        self._sum = _Sum(subject, words, masking, sharing, own, advert)
        return advert.model_dump()

    def shares(self, message: Message) -> Message:
        """The shares of this hospital's two secrets, encrypted for each in the list of participants.

        Raises FedMergeError for a list that ``check_list`` or ``Peers.check`` refuses, and for a second one.
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
            now.given = self._split(now)
        shares = {name: text for name, text in now.given.items() if name != self.name}
        said = {"shares": json.dumps(shares), "commitment": hashlib.sha256(now.own).hexdigest()}
        return reply_message(message, {}, texts=said)

    def masked(self, message: Message) -> Message:
        """The numbers under all masks: int64, modulo 2^64.

        Raises FedMergeError for too few participants, shares that are not what they wrote for this hospital,
        numbers that were given for other participants, and numbers so large that their sum could overflow.
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
        held = {
            name: self._open(now, name, job.shares.get(name, "")) for name in parties if name != self.name
        }
        if self.images is not None and now.subject.images:
            self.images.check_together(now.subject.images, parties)
        self.ledger.join(now.subject, parties)
        now.parties, now.held = parties, held | {self.name: now.given[self.name]}
        publics = {name: bytes.fromhex(now.adverts[name].masking) for name in parties}
        numbers = mask(now.words, self.name, now.own, now.masking, publics, purpose_of(now.adverts, parties))
        return reply_message(message, {}, {NUMBERS: torch.from_numpy(numbers.view(np.int64))})

    def confirm(self, message: Message) -> Message:
        """A signature under the list of survivors; FedMergeError for another list than before."""
        job = _read(message, ConfirmJob)
        now = self._now(job.label)
        survivors = self._among(job.survivors, now.parties, now)
        self._vote(now, survivors)
        assert self._identity is not None
        signature = self._identity.sign(vote(now.adverts, now.parties, survivors))
        return reply_message(message, {}, texts={"signature": signature})

    def unmask(self, message: Message) -> Message:
        """Of each survivor the share of its own mask, of each other participant that of its masking key.

        Raises FedMergeError for another list than before, for too few, and for survivors that are not all
        participants and that too few of them have confirmed.
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

    def _vote(self, now: _Sum, survivors: list[str]) -> None:
        """Write down whose sum is unmasked; FedMergeError where these numbers or images went into another."""
        if self.images is not None and now.subject.images:
            self.images.record_together(now.subject.images, survivors)
        self.ledger.vote(now.subject, survivors)

    def _now(self, label: str) -> _Sum:
        if self._sum is None or self._sum.subject.label != label:
            raise FedMergeError(
                f"hospital '{self.name}' has no numbers of '{label}' to be summed: its process was started "
                "anew, or it did not answer before."
            )
        return self._sum

    def _among(self, names: Sequence[str], known: Sequence[str], now: _Sum) -> list[str]:
        """The names in order, if they are some of those known, this one too, and enough for a sum."""
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

    def _split(self, now: _Sum) -> dict[str, str]:
        """By name the shares of both secrets, encrypted for the others; for itself as they are."""
        names = list(now.adverts)
        most = threshold(len(names))
        parts = (split(secret, most, len(names)) for secret in (now.own, now.masking))
        given = {}
        for name, own, pair in zip(names, *parts, strict=True):
            text = own + pair
            sealed = text if name == self.name else self._box(now, self.name, name).encrypt(NONCE, text, None)
            given[name] = sealed.hex()
        return given

    def _open(self, now: _Sum, name: str, sealed: str) -> str:
        try:
            return self._box(now, name, self.name).decrypt(NONCE, bytes.fromhex(sealed), None).hex()
        except (InvalidTag, ValueError):
            raise FedMergeError(
                f"the shares of '{name}' are not what it wrote for '{self.name}' in '{now.subject.label}'."
            ) from None

    def _box(self, now: _Sum, sender: str, receiver: str) -> AESGCM:
        """What one of the two encrypts for the other, in this sum and never again."""
        other = receiver if sender == self.name else sender
        purpose = purpose_of(now.adverts, now.adverts) + f"|shares|{json.dumps([sender, receiver])}".encode()
        return AESGCM(agree(now.sharing, bytes.fromhex(now.adverts[other].sharing), purpose))

    def _check_confirmed(self, now: _Sum, survivors: list[str], confirmed: Mapping[str, str]) -> None:
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
        """What waits, for a process that ends between two answers; it holds private keys.

        And, without a folder, who this hospital is and what it remembers.
        """
        kept: State = {}
        if self.folder is None and (self._identity is not None or self.ledger.memory):
            private = "" if self._identity is None else self._identity.private().hex()
            kept["self"] = to_tensor(json.dumps({"key": private, "ledger": self.ledger.memory}).encode())
        if (now := self._sum) is not None:
            said = {
                "subject": now.subject.written(),
                "secrets": [now.masking.hex(), now.sharing.hex(), now.own.hex()],
                "advert": now.advert.model_dump(),
                "adverts": [advert.model_dump() for advert in now.adverts.values()],
                "given": now.given,
                "parties": now.parties,
                "held": now.held,
            }
            kept["sum"] = to_tensor(json.dumps(said).encode())
            if now.words is not None:
                kept["words"] = torch.from_numpy(now.words.view(np.int64))
        return kept

    def load_state_dict(self, state: State) -> None:
        """Take back what ``state_dict`` gave."""
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
            said = json.loads(to_bytes(state["sum"]))
            adverts = [Advert(**advert) for advert in said["adverts"]]
            masking, sharing, own = (bytes.fromhex(secret) for secret in said["secrets"])
            self._sum = _Sum(
                Subject.read(said["subject"]),
                state["words"].numpy().view(np.uint64) if "words" in state else None,
                masking,
                sharing,
                own,
                Advert(**said["advert"]),
                {advert.name: advert for advert in adverts},
                **{name: said[name] for name in ("given", "parties", "held")},
            )


J = TypeVar("J", bound=Told)


def _read(message: Message, kind: type[J]) -> J:
    """The job of a message that has no arrays."""
    read_tensors(message, NO_TENSORS)
    return read_job(message, kind)


def _check_size(words: Words, parties: int) -> None:
    """Raise FedMergeError where the sum of so many hospitals' numbers could leave 63 bits."""
    signed = words.view(np.int64)
    largest = max(int(signed.max(initial=0)), -int(signed.min(initial=0)))
    if largest >= SUM // parties:
        raise FedMergeError(
            f"numbers are too large to be summed securely over {parties} hospitals ({largest / SUM:.3g} of "
            f"the range, and each has 1/{parties} of it)."
        )
