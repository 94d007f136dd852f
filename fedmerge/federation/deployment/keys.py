"""Who is who in a deployment: an authority, the server's certificate, and a key for each hospital.

Elliptic-curve keys: P-256 for TLS; P-384 in OpenSSH's format for the hospitals, as Flower wants them. A
private key is written so that only its owner reads it, and never leaves its machine.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmerge.errors import FedMergeError
from fedmerge.files import write

AUTHORITY, SERVER, NODE = "ca", "server", "node"
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825


def make_authority(folder: Path) -> Path:
    """An authority of one's own: ``ca.key``, to be kept, and ``ca.crt``, for all; returns the latter."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedMerge deployment")])
    signs = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    certificate = (
        _certificate(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / f"{AUTHORITY}.key", _pem(key))
    return _write(folder / f"{AUTHORITY}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def issue(folder: Path, names: Sequence[str]) -> None:
    """Write ``server.key`` and ``server.crt``, for these names, signed by the authority there."""
    authority = x509.load_pem_x509_certificate((folder / f"{AUTHORITY}.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / f"{AUTHORITY}.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    known = x509.SubjectAlternativeName([_general(name) for name in dict.fromkeys(names)])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _certificate(subject, authority.subject, key, CERTIFICATE_DAYS)
        .add_extension(known, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_key(folder / f"{SERVER}.key", _pem(key))
    _write(folder / f"{SERVER}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def make_node_key(folder: Path) -> Path:
    """A hospital's key: ``node.key``, to be kept, and ``node.pub``, for the server; returns the latter."""
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _write_key(folder / f"{NODE}.key", text)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return _write(folder / f"{NODE}.pub", public + b"\n")


def read_public(path: Path) -> str:
    """The one line of a ``node.pub``. Raises FedMergeError for a file that is not such a key."""
    if not path.is_file():
        raise FedMergeError(f"there is no file '{path}': check the path.")
    line = path.read_bytes().strip()
    try:
        key = serialization.load_ssh_public_key(line)
    except Exception:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or b"\n" in line:
        raise FedMergeError(f"'{path}' is not the public key of a node: ask the hospital for its node.pub.")
    return line.decode()


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # for hospitals whose clocks are a little late
        .not_valid_after(now + timedelta(days=days))
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise FedMergeError(f"'{name}' is neither a host name nor an address.") from None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_key(path: Path, content: bytes) -> None:
    """Never readable for others, not even while it is written; one that is there is kept."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FedMergeError(
            f"'{path}' is already there, and a key is not replaced: use a new folder."
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _write(path: Path, content: bytes) -> Path:
    write(path, lambda part: part.write_bytes(content))
    return path
