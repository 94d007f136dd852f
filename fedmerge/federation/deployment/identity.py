"""Replace certificates and keys: renewal, rotation, a new authority."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes, serialization

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.callers import EARLY, KNOWN, LATE, signed_headers
from fedmerge.federation.deployment.certificates import install, names_of, read_certificates
from fedmerge.federation.deployment.keys import (
    AUTHORITY,
    IN_FOLDER,
    NODE,
    Keeping,
    make_authority,
    make_node_key,
    make_request,
    sign_request,
    write_public,
)
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.policy.audit import audit
from fedmerge.storage.files import digest, saying, sync

NEXT, BOTH = f"{AUTHORITY}.next", f"{AUTHORITY}.both"


def request(server: ServerFolder, names: Sequence[str] = ()) -> Path:
    """Make a request for the next certificate, for any authority; without names, with the present ones."""
    return make_request(server.path, names or _names(server))


def renew(server: ServerFolder, keeping: Keeping = IN_FOLDER, names: Sequence[str] = ()) -> None:
    """Renew the server's certificate and key with its present authority; a running gate adopts them."""
    install_certificate(server, sign_request(request(server, names), server.authority, keeping))


def install_certificate(server: ServerFolder, certificate: bytes, authority: Path | None = None) -> None:
    """Install a certificate for the server's request and record it in the audit log; see ``install``."""
    install(server.path, certificate, authority)
    used = read_certificates(server.certificate[0])[0]
    audit(
        server.path, "server's certificate", fingerprint=used.fingerprint(hashes.SHA256()).hex(),
        until=f"{used.not_valid_after_utc:%Y-%m-%d}", authority=digest(server.authority),
    )  # fmt: skip


def begin_authority(server: ServerFolder, keeping: Keeping = IN_FOLDER) -> Path:
    """Make the next authority; return a file with both authorities, which hospitals trust meanwhile."""
    made = make_authority(server.path, keeping, NEXT)
    return write_public(server.path / f"{BOTH}.crt", server.authority.read_bytes() + made.read_bytes())


def finish_authority(server: ServerFolder, keeping: Keeping = IN_FOLDER) -> None:
    """Have the next authority sign the server's certificate; it is the only authority from now on."""
    following = server.path / f"{NEXT}.crt"
    if not following.is_file():
        raise FedMergeError(f"'{server.path}' has no next authority: make it first.")
    install_certificate(server, sign_request(request(server), following, keeping), following)
    key = server.path / f"{NEXT}.key"
    if key.is_file():
        key.replace(server.path / f"{AUTHORITY}.key")
    following.unlink()
    (server.path / f"{BOTH}.crt").unlink(missing_ok=True)


def trust(node: NodeFolder, authority: Path) -> list[str]:
    """Make a node trust only these authorities; return their fingerprints (SHA-256)."""
    found = read_certificates(authority)
    write_public(node.path / f"{AUTHORITY}.crt", authority.read_bytes())
    prints = [each.fingerprint(hashes.SHA256()).hex(":") for each in found]
    audit(node.path, "authorities trusted", fingerprints=prints)
    return prints


def rotate(node: NodeFolder) -> Path:
    """Make a new key beside the one in use, until the server admits it; return ``node.new.pub``."""
    public = node.path / f"{NODE}.new.pub"
    if not public.is_file():
        (node.path / f"{NODE}.new.key").unlink(missing_ok=True)  # of an interrupted rotation
        make_node_key(node.path, f"{NODE}.new")
    return public


def take_new_key(node: NodeFolder) -> bool:
    """Replace the key in use by the new one if the server admitted it; return whether it did."""
    new, used = node.path / f"{NODE}.new.key", node.path / f"{NODE}.key"
    if not new.is_file() or not introduce(node, new).known:
        return False
    with saying(used):
        new.replace(used)
        sync(node.path)
    key = serialization.load_ssh_private_key(used.read_bytes(), None)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_public(node.public_key, line + b"\n")
    (node.path / f"{NODE}.new.pub").unlink(missing_ok=True)
    audit(node.path, "node's key exchanged", key=line.decode())
    return True


@dataclass(frozen=True)
class Introduction:
    """A server's answer about a node. known: whether it admitted the key. remarks: problems."""

    known: bool
    name: str | None
    remarks: tuple[str, ...]


def introduce(node: NodeFolder, key: Path | None = None, timeout: float = 10.0) -> Introduction:
    """Ask the server for this node's name there, and compare the clocks. Problems are remarks, not errors."""
    key = key or node.path / f"{NODE}.key"
    try:
        told = httpx.post(
            f"https://{node.settings.server}{KNOWN}",
            headers=signed_headers(key.read_bytes()), timeout=timeout,
            verify=ssl.create_default_context(cafile=str(node.path / f"{AUTHORITY}.crt")), trust_env=False,
        )  # fmt: skip
    except (httpx.HTTPError, OSError) as error:
        why = "it is not believed" if "CERTIFICATE" in str(error) else "it is not reached"
        return Introduction(False, None, (f"{node.settings.server} does not answer: {why} ({error})",))
    remarks = _clock(told.headers.get("date"))
    if told.status_code == 200:
        name = str(told.json()["name"])
        if name != node.settings.site:
            remarks += (
                f"the server let this node in as '{name}', and node.yaml says '{node.settings.site}'",
            )
        return Introduction(True, name, remarks)
    if told.status_code != 404:  # a program in the gate's place may not know this path
        remarks = (f"{node.settings.server} says: {told.text[:300]}", *remarks)
    return Introduction(False, None, remarks)


def _clock(date: str | None) -> tuple[str, ...]:
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):
        return ()
    if -LATE < ahead < EARLY:
        return ()
    way = "ahead of" if ahead > 0 else "behind"
    return (f"this machine's clock is {abs(ahead):.0f} seconds {way} the server's: set it (NTP)",)


def _names(server: ServerFolder) -> list[str]:
    certificate, _ = server.certificate
    found = certificate if certificate.is_file() else certificate.with_suffix(".csr")
    return names_of(found)


def passphrase_of(file: Path | None, variable: str = "FEDMERGE_CA_PASSPHRASE") -> bytes | None:
    """Return the passphrase in the first line of a file, else in the environment; None without either."""
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise FedMergeError(f"'{file}' cannot be read.") from None
        if not given or not given[0]:
            raise FedMergeError(f"'{file}' holds no passphrase in its first line.")
        return given[0].encode()
    said = os.environ.get(variable)
    return said.encode() if said else None
