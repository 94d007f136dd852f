"""Certificates in use: the pair of a running program, its replacement, and the expiry of each."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.keys import AUTHORITY, LOOPBACK, SERVER, write_public
from fedmerge.storage.files import saying, sync

REMINDER = timedelta(days=60)
Pair = tuple[Path, Path]


class Certificate:
    """Certificate and key of a port; when the files are replaced, the next connection uses the new pair."""

    def __init__(self, pair: Pair) -> None:
        """Raises FedMergeError if the files are no pair."""
        self.pair = pair
        self._state = self._look()
        self._context = server_context(pair)

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a new connection. A bad new pair is reported once; the old one stays."""
        state = self._look()
        if state != self._state:
            self._state = state
            try:
                self._context = server_context(self.pair)
            except FedMergeError as error:
                print(f"the certificate in use stays: {error}", file=sys.stderr, flush=True)
        return self._context

    def _look(self) -> list[tuple[int, int, int]]:
        stats = [path.stat() for path in _files(self.pair) if path.exists()]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]


def server_context(pair: Pair) -> ssl.SSLContext:
    """Return a port's TLS context, with the key that fits the certificate: that in use, or the new one."""
    certificate, *keys = _files(pair)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for key in keys:
        try:
            context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError):
            continue
        return context
    raise FedMergeError(f"'{certificate}' and '{keys[0]}' are no certificate and its key.")


def install(folder: Path, certificate: bytes, authority: Path | None = None) -> None:
    """Replace certificate and key in use by a new certificate and the key of its request.

    authority: the one that hospitals will trust, if it is a new one. Raises FedMergeError, and changes
    nothing, if a hospital would not trust the server then. A crash in between leaves a working pair.
    """
    known, key = folder / f"{SERVER}.crt", folder / f"{SERVER}.new.key"
    if not key.is_file() or not (folder / f"{SERVER}.csr").is_file():
        raise FedMergeError(
            f"'{folder}' has no request that is open: `fedmerge deployment request` makes one."
        )
    trusted = authority or folder / f"{AUTHORITY}.crt"
    candidate = write_public(folder / f"{SERVER}.new.crt", certificate)
    try:
        for name in names_of(folder / f"{SERVER}.csr"):
            check_pair((candidate, key), trusted, name)
        if authority is not None:
            write_public(folder / f"{AUTHORITY}.crt", authority.read_bytes())
    except BaseException:
        candidate.unlink()
        raise
    with saying(known):
        candidate.replace(known)
        sync(folder)
        key.replace(folder / f"{SERVER}.key")
        sync(folder)
    (folder / f"{SERVER}.csr").unlink()


def names_of(path: Path) -> list[str]:
    """Return the names in a request or a certificate."""
    text = path.read_bytes()
    load = x509.load_pem_x509_csr if b"REQUEST" in text else x509.load_pem_x509_certificate
    found = load(text).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(each.value) for each in found]


def check_pair(pair: Pair, authority: Path, name: str) -> None:
    """Raise FedMergeError unless clients that trust the authority accept this pair for ``name``.

    The check is a TLS handshake in memory, as between a hospital's node and the gate.
    """
    try:
        trusting = ssl.create_default_context(cafile=str(authority))
    except (ssl.SSLError, OSError):
        raise FedMergeError(f"'{authority}' is no authority's certificate.") from None
    try:
        offering = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        offering.load_cert_chain(*pair)
    except (ssl.SSLError, OSError):
        raise FedMergeError(
            "the certificate is not for the key of the request that is open: have that one signed."
        ) from None
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_hostname=name)
    server = offering.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                raise FedMergeError(
                    f"a hospital would not believe this certificate for '{name}': {error.verify_message}."
                ) from None
            except ssl.SSLError as error:
                raise FedMergeError(f"no connection can be made with this certificate: {error}.") from None


@dataclass(frozen=True)
class Expiry:
    """The period of a certificate, and how to renew it (``way_out``)."""

    what: str
    since: datetime
    until: datetime
    way_out: str


def expiries(folder: Path) -> list[Expiry]:
    """Return the expiries of the certificates in a server's or node's folder, the earliest first."""
    server = (folder / "server.yaml").exists()
    ways = {
        SERVER: f"`fedmerge deployment renew {folder}`",
        AUTHORITY: "docs/deployment.md, a new authority" if server else "ask the server's people",
        LOOPBACK: f"`fedmerge deployment renew {folder} --loopback`, and start the server anew",
    }
    found = []
    for name, way in ways.items():
        path = folder / f"{name}.crt"
        if path.is_file():
            held = read_certificates(path)
            last = max if name == AUTHORITY else min  # of several authorities one valid is enough
            ends = last(each.not_valid_after_utc for each in held)
            since = min(each.not_valid_before_utc for each in held)
            found.append(Expiry(f"{name}.crt", since, ends, way))
    return sorted(found, key=lambda each: each.until)


def reminders(folder: Path, now: datetime | None = None) -> list[str]:
    """Return a sentence for each certificate that ends within 60 days, has ended, or is not valid yet."""
    now = now or datetime.now(UTC)
    sentences = []
    for each in expiries(folder):
        left = each.until - now
        if now < each.since:
            sentences.append(
                f"{each.what} holds from {each.since:%Y-%m-%d} on, but this machine's clock says "
                f"{now:%Y-%m-%d}: set the clock (NTP)"
            )
        elif left < REMINDER:
            when = f"ends in {left.days} days" if left > timedelta(0) else "has ended"
            sentences.append(f"{each.what} {when} ({each.until:%Y-%m-%d}): {each.way_out}")
    return sentences


def read_certificates(path: Path) -> Sequence[x509.Certificate]:
    """Return all certificates in a file. Raises FedMergeError without any."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        raise FedMergeError(f"'{path}' holds no certificate.") from None


def _files(pair: Pair) -> tuple[Path, Path, Path]:
    certificate, key = pair
    return certificate, key, key.with_name(f"{key.stem}.new{key.suffix}")
