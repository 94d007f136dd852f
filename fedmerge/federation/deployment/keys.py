"""The keys of a deployment: an authority, the server's certificate, and a key for each hospital.

Elliptic-curve keys: P-256 for TLS; P-384 in OpenSSH's format for the hospitals, as Flower requires. A
private key is readable only by its owner and never leaves its machine: an authority gets a request to sign.
A key that will replace another is beside it as ``….new.key`` until then.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmerge.errors import FedMergeError
from fedmerge.storage.files import saying, sync, write

AUTHORITY, SERVER, NODE, LOOPBACK = "ca", "server", "node", "loopback"
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
LOCAL = ("localhost", "127.0.0.1")
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Keeping:
    """How an authority's private key is kept. path: its file, if not in the server's folder."""

    path: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)

    def key(self, folder: Path, name: str = AUTHORITY) -> Path:
        """Return the file of the key."""
        return self.path or folder / f"{name}.key"


IN_FOLDER = Keeping()


def make_authority(folder: Path, keeping: Keeping = IN_FOLDER, name: str = AUTHORITY) -> Path:
    """Make an own authority: ``ca.key``, to be kept, and ``ca.crt``, for all; return the latter."""
    made = ec.generate_private_key(ec.SECP256R1())
    _write_key(keeping.key(folder, name), _pem(made, keeping.passphrase))
    certificate = _self_signed("FedMerge deployment", made, ()).public_bytes(_PEM)
    return write_public(folder / f"{name}.crt", certificate)


def make_loopback(folder: Path) -> None:
    """Make the SuperLink's self-signed certificate and key, for this machine only."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(folder / f"{LOOPBACK}.key", _pem(key), replace=True)
    write_public(folder / f"{LOOPBACK}.crt", _self_signed("SuperLink", key, LOCAL).public_bytes(_PEM))


def make_request(folder: Path, names: Sequence[str]) -> Path:
    """Make a new key, ``server.new.key``, and the request for its certificate; return the latter.

    An earlier request becomes invalid.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    known = [_general(name) for name in dict.fromkeys(names)]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(names[0][:64]))
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / f"{SERVER}.new.key", _pem(key), replace=True)
    return write_public(folder / f"{SERVER}.csr", request.public_bytes(_PEM))


def sign_request(request: Path, authority: Path, keeping: Keeping = IN_FOLDER) -> bytes:
    """Return the certificate for a request. authority: its certificate; keeping: of its key."""
    key = keeping.key(authority.parent, authority.stem)
    asked = x509.load_pem_x509_csr(request.read_bytes())
    signer = read_key(key, keeping.passphrase)
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    if signer.public_key() != issuer.public_key():
        raise FedMergeError(f"'{key}' is not the private key of '{authority}': give that one.")
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    until = min(datetime.now(UTC) + timedelta(days=CERTIFICATE_DAYS), issuer.not_valid_after_utc)
    certificate = (
        _certificate(asked.subject, issuer.subject, asked.public_key(), until)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(by, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(_PEM)


def read_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read an authority's private key. Raises FedMergeError if it is missing or the passphrase is wrong."""
    if not path.is_file():
        raise FedMergeError(f"there is no '{path}': the authority's key is needed (--ca-key).")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except TypeError:
        what = "is encrypted: give its passphrase" if passphrase is None else "is not encrypted"
        raise FedMergeError(f"'{path}' {what}.") from None
    except ValueError:
        raise FedMergeError(f"'{path}' cannot be read with this passphrase, or is damaged.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FedMergeError(f"'{path}' is not a key that FedMerge made.")
    return key


def is_encrypted(path: Path) -> bool:
    """Check whether a private key needs a passphrase; False for a missing one."""
    return path.is_file() and b"ENCRYPTED" in path.read_bytes()


def make_node_key(folder: Path, name: str = NODE) -> Path:
    """Make a hospital's key: ``node.key``, to be kept, and ``node.pub``, for the server; return this."""
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    _write_key(folder / f"{name}.key", text)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return write_public(folder / f"{name}.pub", public + b"\n")


def read_public(path: Path) -> str:
    """Read the one line of a ``node.pub``. Raises FedMergeError for any other file."""
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


def write_public(path: Path, content: bytes) -> Path:
    """Write a file that everybody may read, whole or not at all."""
    write(path, lambda part: part.write_bytes(content))
    return path


def _self_signed(name: str, key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    signs = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    until = datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS)
    subject = _name(name)
    builder = (
        _certificate(subject, subject, key.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if names:
        known = x509.SubjectAlternativeName([_general(each) for each in names])
        builder = builder.add_extension(known, critical=False)
    return builder.sign(key, hashes.SHA256())


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))  # for clocks that are behind
        .not_valid_after(until)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise FedMergeError(f"'{name}' is neither a host name nor an address.") from None


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        how = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, how)


def _write_key(path: Path, content: bytes, replace: bool = False) -> None:
    """Write a key that only its owner can ever read. Raises FedMergeError if it exists."""
    if replace:
        path.unlink(missing_ok=True)
    with saying(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            descriptor = None
    if descriptor is None:
        raise FedMergeError(f"'{path}' is already there, and a key is not replaced: use a new folder.")
    with saying(path), os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
