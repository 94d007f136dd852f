"""The server's side of secure sums: forward keys and shares, add masked numbers, remove the masks.

After the hospitals' first replies, which have keys, come three exchanges: shares, masked numbers, unmasking.
If a hospital was lost after it gave shares, there is one more, in which the survivors confirm their list.
``secure_hospital`` and docs/threat-model.md say what the server cannot learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import Message

from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import Client, ClientRegistry
from fedmerge.federation.messages.records import request_message
from fedmerge.federation.messages.replies import ReplyBody
from fedmerge.federation.messages.secure import Advert, Confirmed, Offered, Shared, Unmasked
from fedmerge.federation.messages.tensors import NO_TENSORS, Tensors
from fedmerge.federation.privacy.identity import same_key
from fedmerge.federation.privacy.masked import SPOILT, SUM, NoSum
from fedmerge.federation.privacy.secure_keys import NUMBERS, check_advert, purpose_of
from fedmerge.federation.privacy.secure_sum import FEWEST, Words, add_pair, own_mask, public_of, threshold
from fedmerge.federation.privacy.shamir import recover
from fedmerge.federation.server.requests import Reply, Request, usable

PHASE = "sum"
S = TypeVar("S", bound=ReplyBody)
Ask = Callable[[Request], Iterable[Reply]]
"""Sends a request and yields the usable replies."""


@dataclass(frozen=True)
class Total:
    """A sum modulo 2^64, and the hospitals in it."""

    names: tuple[str, ...]
    words: Words


def check_offer(label: str, keys: Mapping[str, str]) -> Callable[[Reply], str | None]:
    """Return a check that a reply offers keys for this sum. keys: of the admitted hospitals, by name."""

    def check(reply: Reply) -> str | None:
        try:
            advert = _advert(reply)
            check_advert(advert)
        except FedMergeError as error:
            return f"it answered without keys, which a secure sum begins with: {error}"
        if (advert.label, advert.name) != (label, reply.client.name):
            return f"it answered with keys of '{advert.name}' for '{advert.label}'"
        known = keys.get(reply.client.name)
        if known is not None and not same_key(known, advert.identity):
            return "its keys are not signed with the key that it was admitted with"
        return None

    return check


def secure_total(
    round: int, label: str, offers: Iterable[Reply], words: int, ask: Ask, all_of: Sequence[str] = ()
) -> Total:
    """Return the sum of the numbers of all hospitals that stay to the end.

    offers: their first replies, with keys, which passed ``check_offer``. words: the length of their numbers.
    all_of: the hospitals that must be in the sum; empty: any that are enough. Raises NoSum if too few are
    left, or if the shares do not remove all masks.
    """
    given = [(reply.client, _advert(reply)) for reply in offers]
    known = {client.name: client for client, _ in given}
    if len(known) < FEWEST:
        raise NoSum(
            f"a secure sum takes at least {FEWEST} hospitals, but {len(known)} began it: with fewer, one "
            "could read another's numbers"
        )
    _check_all(all_of, known, "keys")
    adverts = {advert.name: advert for _, advert in sorted(given, key=lambda pair: pair[1].name)}
    exchange = _Exchange(round, label, known, adverts, threshold(len(adverts)), ask)
    shared = exchange.share()
    _check_all(all_of, shared, "shares")
    total, survivors = exchange.collect(shared, words)
    _check_all(all_of, survivors, "masked numbers")
    exchange.unmask(total, list(shared), survivors, {n: s.commitment for n, s in shared.items()})
    numbers = total.view(np.int64)
    if not np.all((numbers > -SUM) & (numbers < SUM)):
        raise NoSum(f"the sum is out of the range of honest answers: {SPOILT}")
    return Total(tuple(survivors), total)


def _check_all(all_of: Sequence[str], found: Iterable[str], what: str) -> None:
    lost = sorted({*all_of} - {*found})
    if lost:
        names = ", ".join(f"'{name}'" for name in lost)
        raise NoSum(f"{names} gave no {what}")


@dataclass(frozen=True)
class _Exchange:
    round: int
    label: str
    known: Mapping[str, Client]
    adverts: Mapping[str, Advert]
    least: int
    ask: Ask

    def share(self) -> dict[str, Shared]:
        """Collect the shares of all hospitals, encrypted for the others."""
        job = {"adverts": [advert.model_dump() for advert in self.adverts.values()]}

        def check(reply: Reply) -> str | None:
            if _body(reply, Shared).shares.keys() != self.adverts.keys() - {reply.client.name}:
                return "its shares are not for the other participants"
            return None

        replies = self._put("shares", list(self.adverts), lambda name: job, check)
        return self._enough({reply.client.name: _body(reply, Shared) for reply in replies}, "shares")

    def collect(self, shared: Mapping[str, Shared], words: int) -> tuple[Words, list[str]]:
        """Return the sum of the masked numbers, and the hospitals in it."""
        parties = list(shared)

        def job(name: str) -> dict[str, Any]:
            mine = {other: shared[other].shares[name] for other in parties if other != name}
            return {"parties": parties, "shares": mine}

        total, found = np.zeros(words, dtype=np.uint64), dict[str, None]()
        for reply in self._put("masked", parties, job, tensors=Tensors.of("int64", {NUMBERS: (words,)})):
            total += (reply.state or {})[NUMBERS].numpy().view(np.uint64)
            found[reply.client.name] = None
        return total, list(self._enough(found, "masked numbers"))

    def unmask(
        self, total: Words, parties: list[str], survivors: list[str], commitments: Mapping[str, str]
    ) -> None:
        """Remove all masks in place. commitments: the SHA-256 of each own mask's secret, by name."""
        confirmed = {} if survivors == parties else self._confirm(survivors)
        job = {"survivors": survivors, "confirmed": confirmed}
        lost = [name for name in parties if name not in survivors]

        def check(reply: Reply) -> str | None:
            given = _body(reply, Unmasked)
            if given.own.keys() != set(survivors) or given.pair.keys() != set(lost):
                return "its shares are not those that were asked for"
            return None

        asked = [name for name in survivors if not confirmed or name in confirmed]
        replies = self._put("unmask", asked, lambda name: job, check)
        opened = {reply.client.name: _body(reply, Unmasked) for reply in replies}
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
        """Return the survivors' signatures of their list."""
        replies = self._put("confirm", survivors, lambda name: {"survivors": survivors})
        found = {reply.client.name: _body(reply, Confirmed).signature for reply in replies}
        return dict(self._enough(found, "confirmations"))

    def _recovered(
        self, name: str, shares: Mapping[int, bytes], expected: str, of: Callable[[bytes], str]
    ) -> bytes:
        """Return the secret with ``of(secret) == expected``. Raises NoSum if the shares do not give it."""
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
        check: Callable[[Reply], str | None] = usable,
        tensors: Tensors = NO_TENSORS,
    ) -> Iterable[Reply]:
        kind = f"query.secure_{action}"

        def ask(client: Client, attempt: int) -> Message:
            whole = {"label": self.label} | job(client.name)
            return request_message(kind, client.node_id, f"{PHASE} {self.round}", whole, None)

        clients = ClientRegistry(self.known[name] for name in names)
        request = Request(kind, self.round, PHASE, clients, ask, lambda client: tensors, check)
        return self.ask(request)


def _advert(reply: Reply) -> Advert:
    return _body(reply, Offered).advert


def _body(reply: Reply, kind: type[S]) -> S:
    assert isinstance(reply.body, kind)
    return reply.body
