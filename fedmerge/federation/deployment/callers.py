"""Check the caller of a call: an admitted key signed the current time, and no signature comes twice."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from fedmerge.errors import FedMergeError
from fedmerge.federation.admission import Admitted, read_admitted

LATE, EARLY = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE, SYSTEM_TIME_TOLERANCE
"""Seconds that a signed time may be behind or ahead of the server's clock; Flower's own limits."""
MOST = 20_000
"""The most calls of one key while its signatures are remembered: 65 per second."""
IDENTITY = (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)

KNOWN = "/v1/gate/known"
"""The path that answers a signed call without a body with the hospital's name and node id."""


class Refused(Exception):
    """A call is not forwarded. status: of HTTP. who: the hospital's name, if it is known."""

    def __init__(self, status: int, sentence: str, who: str | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.who = status, sentence, who


@dataclass(frozen=True)
class Caller:
    """An admitted hospital. pem: its key as Flower writes it."""

    node: int
    name: str
    pem: bytes


class Callers:
    """Checks callers against ``admitted.yaml``, which may change at any time."""

    def __init__(self, admitted: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path, self.now = admitted, now
        self.began = now()
        self._seen: dict[bytes, _Seen] = {}
        self._state: tuple[int, ...] | None = None
        self._known: dict[bytes, tuple[Caller, ec.EllipticCurvePublicKey]] = {}

    def check(self, headers: Mapping[str, Sequence[str]]) -> Caller:
        """Return the caller. Raises Refused. headers: all values of each header, by lower-case name."""
        key, stamp, signature = (_single(headers, name) for name in IDENTITY)
        pem, signed = _bytes(key), _bytes(signature)
        found = self._admitted().get(pem)
        if found is None:
            raise Refused(
                401,
                "the server does not know this key: give node.pub to the server's people, who admit it, or "
                "revoked it.",
            )
        caller, public = found
        self._check_time(stamp, caller.name)
        try:
            public.verify(signed, stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
            mark, _ = decode_dss_signature(signed)
        except (InvalidSignature, ValueError):
            raise Refused(401, "the signature is not this key's.", caller.name) from None
        self._check_new(pem, mark, caller.name)
        return caller

    def still(self, caller: Caller) -> bool:
        """Check that a hospital was not revoked since its call was checked."""
        found = self._admitted().get(caller.pem)
        return found is not None and found[0] == caller

    def _admitted(self) -> dict[bytes, tuple[Caller, ec.EllipticCurvePublicKey]]:
        """Return the admitted callers by key, from the current file. Raises Refused if it cannot be read."""
        try:
            stat = self.path.stat()
            state: tuple[int, ...] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            state = ()
        except OSError as error:
            raise Refused(503, f"the server cannot read whom it admitted ({error.strerror}).") from None
        if state != self._state:
            try:
                listed = read_admitted(self.path) if state else {}
                self._known = dict(_by_key(listed or {}))
            except FedMergeError as error:
                raise Refused(503, "the server cannot read whom it admitted.") from error
            self._state = state
            self._seen = {pem: seen for pem, seen in self._seen.items() if pem in self._known}
        return self._known

    def _check_time(self, stamp: str, name: str) -> None:
        try:
            age = (self.now() - datetime.fromisoformat(stamp)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            raise Refused(401, "the call says no time that can be read.", name) from None
        if not -EARLY < age < LATE:
            way = f"{age:.0f} seconds behind" if age > 0 else f"{-age:.0f} seconds before"
            raise Refused(
                401,
                f"this call is signed {way} the server's clock: set the clocks (NTP); {LATE} behind and "
                f"{EARLY} before are allowed.",
                name,
            )
        if datetime.fromisoformat(stamp) < self.began:
            raise Refused(503, "signed before the gate began: sign anew.", name)

    def _check_new(self, pem: bytes, mark: int, name: str) -> None:
        seen = self._seen.setdefault(pem, _Seen())
        now = self.now().timestamp()
        seen.forget(now - LATE - EARLY)
        if mark in seen.marks:
            raise Refused(401, "this signature was used before.", name)
        if len(seen.marks) >= MOST:
            raise Refused(503, "too many calls in the last minutes: go slower.", name)
        seen.add(mark, now)


class _Seen:
    """Signatures of one key, each known by its r: whoever has (r, s) can make (r, -s), but no other r."""

    def __init__(self) -> None:
        self.marks: set[int] = set()
        self.order: deque[tuple[float, int]] = deque()

    def add(self, mark: int, at: float) -> None:
        self.marks.add(mark)
        self.order.append((at, mark))

    def forget(self, before: float) -> None:
        while self.order and self.order[0][0] < before:
            self.marks.discard(self.order.popleft()[1])


def signed_headers(private: bytes, now: datetime | None = None) -> dict[str, str]:
    """Return the headers of a call signed with the key in a ``node.key``, as by Flower's SuperNode."""
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    stamp = (now or datetime.now(UTC)).isoformat()
    signature = key.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    values = (b64encode(_pem(key.public_key())).decode(), stamp, b64encode(signature).decode())
    return dict(zip(IDENTITY, values, strict=True))


def _single(headers: Mapping[str, Sequence[str]], name: str) -> str:
    values = headers.get(name, ())
    if len(values) != 1 or len(values[0]) > 2048:
        raise Refused(401, "the call is not signed: hospitals sign each with their node's key.")
    return values[0]


def _bytes(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(401, "the call is not signed: hospitals sign each with their node's key.") from None


def _by_key(listed: Mapping[int, Admitted]) -> list[tuple[bytes, tuple[Caller, ec.EllipticCurvePublicKey]]]:
    found = []
    for node, hospital in listed.items():
        try:
            key = serialization.load_ssh_public_key(hospital.key.encode())
        except Exception:
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise FedMergeError(f"the key of '{hospital.name}' in admitted.yaml is not a node's.")
        pem = _pem(key)
        found.append((pem, (Caller(node, hospital.name, pem), key)))
    return found


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
