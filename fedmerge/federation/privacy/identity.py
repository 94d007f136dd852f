"""A hospital's identity: the key with which it signs the keys of secure sums, and checks of signatures."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from fedmerge.errors import FedMergeError

ECDSA = ec.ECDSA(SHA384())
KEY = "node.key"  # in the folder of a node; P-384, in OpenSSH's format


class Identity:
    """A hospital's private key (ECDSA, P-384)."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = as_line(key.public_key())

    @classmethod
    def fresh(cls) -> Identity:
        """Make a new identity, for a hospital of a simulation."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def of(cls, folder: Path) -> Identity:
        """Read the identity in a node's folder. Raises FedMergeError if its key cannot be read."""
        path = folder / KEY
        try:
            key = serialization.load_ssh_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise FedMergeError(
                f"the node's key '{path}' cannot be read ({error}), and secure sums are signed with it."
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FedMergeError(f"'{path}' is no key of a node (ECDSA).")
        return cls(key)

    @classmethod
    def load(cls, private: bytes) -> Identity:
        """Load an identity from the bytes of ``private``."""
        key = serialization.load_der_private_key(private, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key)

    def private(self) -> bytes:
        """Return the private key as bytes, for another process of the same hospital."""
        return self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, what: bytes) -> str:
        """Return the signature of bytes, in hexadecimal."""
        return self._key.sign(what, ECDSA).hex()


def as_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key in OpenSSH's format, without a comment: ``ecdsa-sha2-nistp384 AAAA…``."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@lru_cache(maxsize=1024)
def read_line(line: str) -> ec.EllipticCurvePublicKey | None:
    """Return the public key in an OpenSSH line; None unless it is ECDSA, P-384."""
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except Exception:
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1" else None


def same_key(one: str, other: str) -> bool:
    """Check whether two lines are the same key, whatever comments they have."""
    first, second = read_line(one), read_line(other)
    return first is not None and second is not None and first == second


def signed(public: str, what: bytes, signature: str) -> bool:
    """Check whether the holder of a public key signed these bytes."""
    key = read_line(public)
    try:
        given = bytes.fromhex(signature)
        if key is None:
            return False
        key.verify(given, what, ECDSA)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: str) -> str:
    """Return a key's fingerprint as ``ssh-keygen -l`` prints it, for people to compare: ``SHA256:…``."""
    blob = b64decode(public.split()[1])
    return "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
