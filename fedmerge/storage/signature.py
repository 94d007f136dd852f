"""The signature of a folder's manifest, ``manifest.sig`` (Ed25519): who vouches for its files.

The manifest holds the SHA-256 of every file, so its signature covers them all. Keys are those of
``ssh-keygen -t ed25519``, or PEM.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import fedmerge.storage.own_files as own_files
from fedmerge.errors import FedMergeError, short
from fedmerge.storage.files import write_json
from fedmerge.storage.manifest import check, read_manifest
from fedmerge.storage.own_files import MANIFEST, SIGNATURE

MEANING = b"FedMerge manifest 1\n"
"""The prefix of the signed bytes, so that a signature for another purpose cannot be used here."""
SignatureState = Literal["none", "good", "bad", "other key", "not checked"]


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a private Ed25519 key from a file, OpenSSH's format or PEM. Raises FedMergeError."""
    data = _read(path)
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            key: Any = load(data, None)
        except TypeError:
            raise FedMergeError(f"the key in '{path}' has a password: give one without.") from None
        except Exception:
            continue
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise FedMergeError(f"'{path}' is no private Ed25519 key: make one with ssh-keygen -t ed25519.")


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public Ed25519 key from a file, OpenSSH's format or PEM. Raises FedMergeError."""
    data = _read(path).strip()
    for load in (serialization.load_ssh_public_key, serialization.load_pem_public_key):
        try:
            key: Any = load(data)
        except Exception:
            continue
        if isinstance(key, Ed25519PublicKey):
            return key
    raise FedMergeError(f"'{path}' is no public Ed25519 key: give the .pub file of the key that signs.")


def sign(folder: Path, key: Path | Ed25519PrivateKey) -> Path:
    """Sign a finished folder and return the path of the signature.

    Raises FedMergeError where a file is not as it was written, or the work is not finished: nothing is signed
    then. Raises DiskError where the folder cannot be written.
    """
    signer = read_signing_key(key) if isinstance(key, Path) else key
    found = check(folder)
    if not found.good:
        raise FedMergeError(
            f"'{short(folder)}' is not as it was written, and is not signed:", *found.sentences()
        )
    if not found.finished:
        raise FedMergeError(f"the work in '{short(folder)}' is not finished: sign it when it is.")
    own_files.enter(folder)
    text = (folder / MANIFEST).read_bytes()
    body = {
        "algorithm": "ed25519",
        "key": line_of(signer.public_key()),
        "signature": base64.b64encode(signer.sign(MEANING + text)).decode(),
    }
    write_json(folder / SIGNATURE, body)
    return folder / SIGNATURE


def check_signature(folder: Path, trusted: Ed25519PublicKey | None = None) -> tuple[SignatureState, str]:
    """Return the state of a folder's signature, and the public key that it names (a line of OpenSSH).

    trusted: the key that must have signed; without it a signature that fits its own key is ``not checked``.
    """
    path = folder / SIGNATURE
    if not path.is_file() or path.is_symlink():
        return ("bad", "") if path.is_symlink() else ("none", "")
    try:
        body = json.loads(path.read_bytes())
        named = serialization.load_ssh_public_key(body["key"].encode())
        signature = base64.b64decode(body["signature"], validate=True)
        assert isinstance(named, Ed25519PublicKey)
        again = base64.b64encode(signature).decode()  # the same bytes may be written in several ways
        whole = {"algorithm": "ed25519", "key": line_of(named), "signature": again}
        if path.read_text() != json.dumps(whole, indent=1) + "\n":
            return "bad", ""
    except Exception:
        return "bad", ""
    if trusted is not None and line_of(trusted) != line_of(named):
        return "other key", line_of(named)
    try:
        named.verify(signature, MEANING + (folder / MANIFEST).read_bytes())
        manifest = read_manifest(folder)
    except (InvalidSignature, OSError, FedMergeError):
        return "bad", line_of(named)
    if manifest is None or manifest.open:
        return "bad", line_of(named)
    return ("not checked" if trusted is None else "good"), line_of(named)


def line_of(key: Ed25519PublicKey) -> str:
    """Return a public key as OpenSSH writes it, without a comment."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form).decode()


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FedMergeError(f"there is no file '{short(path)}': check the path.")
    return path.read_bytes()[:65536]
