"""The server's side of secure sums: it passes keys and shares on, adds masked numbers, takes the masks off.

After the hospitals' first answers, which carry keys, come three exchanges: shares, masked numbers, unmasking;
and one more, in which survivors confirm each other, where a hospital was lost after it had given shares. What
the server cannot have is said in ``secure_hospital`` and docs/threat-model.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from flwr.app import Message
from pydantic import Field

from fedmerge.errors import FedMergeError
from fedmerge.federation.exchange import Answer, Question
from fedmerge.federation.privacy.identity import same_key
from fedmerge.federation.privacy.masked import SPOILT, SUM, NoSum
from fedmerge.federation.privacy.secure_hospital import Cipher
from fedmerge.federation.privacy.secure_keys import (
    MOST,
    NUMBERS,
    WORDS,
    Advert,
    Key,
    Name,
    Strict,
    purpose_of,
    unpack,
)
from fedmerge.federation.privacy.secure_sum import FEWEST, Words, add_pair, own_mask, public_of, threshold
from fedmerge.federation.privacy.shamir import recover
from fedmerge.federation.records import request
from fedmerge.federation.roster import Member, Roster

PHASE = "sum"
Ask = Callable[[Question], Iterable[Answer]]
"""Puts a question, and gives the usable answers."""


class Shares(Strict):
    """The shares of a hospital's secrets, encrypted for the others; commitment: SHA-256 of its own mask's."""

    shares: Annotated[dict[Name, Cipher], Field(max_length=MOST)]
    commitment: Key


class Signature(Strict):
    """Under the list of survivors."""

    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{2,300}$")]


class Nothing(Strict):
    """Beside masked numbers."""


class Opened(Strict):
    """Shares of the survivors' own masks, and of the other participants' masking keys, by name."""

    own: Annotated[dict[Name, Key], Field(max_length=MOST)]
    pair: Annotated[dict[Name, Key], Field(max_length=MOST)]


@dataclass(frozen=True)
class Total:
    """A sum modulo 2^64, and whose numbers are in it."""

    names: tuple[str, ...]
    words: Words


def check_offer(label: str, keys: Mapping[str, str]) -> Callable[[Answer], str | None]:
    """Why an answer is no offer of keys for this sum, or None. keys: by name, of those that were admitted."""

    def check(answer: Answer) -> str | None:
        try:
            advert = _advert(answer)
            advert.check()
        except FedMergeError as error:
            return f"it answered without keys, which a secure sum begins with: {error}"
        if (advert.label, advert.name) != (label, answer.member.name):
            return f"it answered with keys of '{advert.name}' for '{advert.label}'"
        known = keys.get(answer.member.name)
        if known is not None and not same_key(known, advert.identity):
            return "its keys are not signed with the key that it was admitted with"
        return None

    return check


def secure_total(round: int, label: str, offers: Iterable[Answer], words: int, ask: Ask) -> Total:
    """The sum of the numbers of all hospitals that stay to the end.

    offers: their first answers, with keys, which passed ``check_offer``. words: how many numbers. Raises
    NoSum where too few are left, or where the shares do not take all masks off.
    """
    given = [(answer.member, _advert(answer)) for answer in offers]
    known = {member.name: member for member, _ in given}
    if len(known) < FEWEST:
        raise NoSum(
            f"a secure sum takes at least {FEWEST} hospitals, but {len(known)} began it: with fewer, one "
            "could read another's numbers"
        )
    adverts = {advert.name: advert for _, advert in sorted(given, key=lambda pair: pair[1].name)}
    exchange = _Exchange(round, label, known, adverts, threshold(len(adverts)), ask)
    shared = exchange.share()
    total, survivors = exchange.collect(shared, words)
    exchange.unmask(total, list(shared), survivors, {n: s.commitment for n, s in shared.items()})
    numbers = total.view(np.int64)
    if not np.all((numbers > -SUM) & (numbers < SUM)):
        raise NoSum(f"the sum is out of the range of honest answers: {SPOILT}")
    return Total(tuple(survivors), total)


@dataclass(frozen=True)
class _Exchange:
    round: int
    label: str
    known: Mapping[str, Member]
    adverts: Mapping[str, Advert]
    least: int
    ask: Ask

    def share(self) -> dict[str, Shares]:
        """Everybody's shares, encrypted for the others."""
        job = {"adverts": [advert.model_dump() for advert in self.adverts.values()]}

        def check(answer: Answer) -> str | None:
            given = unpack(answer.state, Shares, "its answer")
            if given.shares.keys() != self.adverts.keys() - {answer.member.name}:
                return "its shares are not for the other participants"
            return None

        answers = self._put("shares", list(self.adverts), lambda name: job, check)
        return self._enough({a.member.name: unpack(a.state, Shares, "its answer") for a in answers}, "shares")

    def collect(self, shared: Mapping[str, Shares], words: int) -> tuple[Words, list[str]]:
        """The sum of the masked numbers, and of whom."""
        parties = list(shared)

        def job(name: str) -> dict[str, Any]:
            mine = {other: shared[other].shares[name] for other in parties if other != name}
            return {"parties": parties, "shares": mine}

        def check(answer: Answer) -> str | None:
            unpack({WORDS: (answer.state or {})[WORDS]}, Nothing, "its answer")
            numbers = (answer.state or {}).get(NUMBERS)
            if numbers is None or numbers.dtype != torch.int64 or numbers.shape != (words,):
                return f"it answered without the {words} masked numbers that are to be summed"
            return None

        total, found = np.zeros(words, dtype=np.uint64), dict[str, None]()
        for answer in self._put("masked", parties, job, check):
            total += (answer.state or {})[NUMBERS].numpy().view(np.uint64)
            found[answer.member.name] = None
        return total, list(self._enough(found, "masked numbers"))

    def unmask(
        self, total: Words, parties: list[str], survivors: list[str], commitments: Mapping[str, str]
    ) -> None:
        """Take all masks off, in place. commitments: what the secrets of own masks must give."""
        confirmed = {} if survivors == parties else self._confirm(survivors)
        job = {"survivors": survivors, "confirmed": confirmed}
        lost = [name for name in parties if name not in survivors]

        def check(answer: Answer) -> str | None:
            given = unpack(answer.state, Opened, "its answer")
            if given.own.keys() != set(survivors) or given.pair.keys() != set(lost):
                return "its shares are not those that were asked for"
            return None

        asked = [name for name in survivors if not confirmed or name in confirmed]
        answers = self._put("unmask", asked, lambda name: job, check)
        opened = {a.member.name: unpack(a.state, Opened, "its answer") for a in answers}
        self._enough(opened, "shares to unmask")
        purpose = purpose_of(self.adverts, parties)
        number = {name: at for at, name in enumerate(self.adverts, 1)}
        for name in survivors:
            shares = {number[by]: bytes.fromhex(given.own[name]) for by, given in opened.items()}
            own = self._recovered(name, shares, commitments[name], lambda s: hashlib.sha256(s).hexdigest())
            total -= own_mask(own, len(total), purpose)
        for name in lost:
            shares = {number[by]: bytes.fromhex(given.pair[name]) for by, given in opened.items()}
            secret = self._recovered(name, shares, self.adverts[name].masking, lambda s: public_of(s).hex())
            for other in survivors:
                there = bytes.fromhex(self.adverts[other].masking)
                add_pair(total, other, name, secret, there, purpose, off=True)

    def _confirm(self, survivors: list[str]) -> dict[str, str]:
        """The survivors' signatures under their list."""

        def check(answer: Answer) -> str | None:
            unpack(answer.state, Signature, "its answer")
            return None

        answers = self._put("confirm", survivors, lambda name: {"survivors": survivors}, check)
        found = {a.member.name: unpack(a.state, Signature, "its answer").signature for a in answers}
        return dict(self._enough(found, "confirmations"))

    def _recovered(
        self, name: str, shares: Mapping[int, bytes], expected: str, of: Callable[[bytes], str]
    ) -> bytes:
        """The secret of which ``of`` gives what is expected. Raises NoSum where the shares do not give it."""
        secret = recover(shares, self.least, lambda secret: of(secret) == expected)
        if secret is None:
            raise NoSum(f"the shares of '{name}' do not give its mask, so it stays in the sum")
        return secret

    def _enough(self, found: dict[str, Any], what: str) -> dict[str, Any]:
        if len(found) < self.least:
            raise NoSum(
                f"{len(found)} of {len(self.adverts)} hospitals gave {what}, and a sum takes {self.least}"
            )
        return found

    def _put(
        self,
        action: str,
        names: list[str],
        job: Callable[[str], dict[str, Any]],
        check: Callable[[Answer], str | None],
    ) -> Iterable[Answer]:
        def ask(member: Member, attempt: int) -> Message:
            whole = {"label": self.label} | job(member.name)
            return request(f"query.secure_{action}", member.node_id, f"{PHASE} {self.round}", whole, None)

        def checked(answer: Answer) -> str | None:
            try:
                return check(answer)
            except (FedMergeError, KeyError) as error:
                return f"its part of a secure sum cannot be used: {error}"

        roster = Roster(self.known[name] for name in names)
        return self.ask(Question(self.round, PHASE, roster, ask, checked))


def _advert(answer: Answer) -> Advert:
    return unpack(answer.state, Advert, "its answer")
