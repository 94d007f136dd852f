"""The arithmetic of secure sums: keys that two hospitals share, and the masks made from them.

Each pair of hospitals agrees on a key that the server does not know (X25519, RFC 7748) and stretches it to as
many random numbers as there are numbers to be summed (HKDF-SHA256, then AES-256 in counter mode); one of the
two adds them, the other subtracts them (Bonawitz et al. 2017, doi 10.1145/3133956.3133982). Each hospital
adds a mask of its own, which is removed after the sum. Numbers are integers modulo 2^64, so masks cancel
exactly: the result does not depend on the keys.

Flower's SecAgg+ is not used: it works with Flower's old strategies only, and its masks come from seeds of
32 bits (flwr 1.42, ``pseudo_rand_gen``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedmerge.errors import FedMergeError

Words = NDArray[np.uint64]
FEWEST = 3  # of two hospitals, each could subtract its own numbers from the sum


def threshold(hospitals: int) -> int:
    """Return how many of n hospitals must stay to the end to unmask a sum: more than two thirds.

    Two groups of that size have more than n / 3 in common, so a hospital's masks can be removed for only one
    list of survivors, whatever the server tells each hospital, unless n / 3 hospitals help it.
    """
    return max(FEWEST, 2 * hospitals // 3 + 1)


def new_secret() -> bytes:
    """Make a private key from the operating system's randomness, independent of the run's seed."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(secret: bytes) -> bytes:
    """Return the public key of a private key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes, purpose: bytes) -> bytes:
    """Return the 32-byte key of two hospitals, from one's private and the other's public key.

    Raises FedMergeError for a public key of small order, with which anybody would know the key.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:  # the all-zero result; RFC 7748 allows its refusal
        raise FedMergeError("a public key in the list is of small order, which no hospital makes.") from None
    return derive(shared, purpose)


def derive(secret: bytes, purpose: bytes) -> bytes:
    """Derive a 32-byte key for one purpose from a secret."""
    return HKDF(SHA256(), 32, salt=None, info=purpose).derive(secret)


def numbers_of(key: bytes, words: int) -> Words:
    """Return ``words`` random 64-bit numbers from a key that is used for nothing else."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * words)), dtype="<u8")


def mask(
    numbers: Words, name: str, own: bytes, secret: bytes, publics: Mapping[str, bytes], purpose: bytes
) -> Words:
    """Return ``numbers`` plus the own mask of hospital ``name`` and its masks towards all others.

    own: the secret of its own mask. secret: its private key; publics: everyone's public keys. purpose: binds
    the masks to one sum; it must differ for every sum, and be the same for all participants.
    """
    masked = numbers + own_mask(own, len(numbers), purpose)
    for other, public in publics.items():
        if other != name:
            add_pair(masked, name, other, secret, public, purpose)
    return masked


def own_mask(own: bytes, words: int, purpose: bytes) -> Words:
    """Return the own mask of one hospital."""
    return numbers_of(derive(own, purpose + b"|own"), words)


def add_pair(
    numbers: Words, name: str, other: str, secret: bytes, public: bytes, purpose: bytes, *, off: bool = False
) -> None:
    """Add the mask of hospital ``name`` towards ``other`` to ``numbers`` in place; off: remove it.

    secret, public: the private key of one of the two and the public key of the other.
    """
    pair = "|".join(sorted((name, other))).encode()
    random = numbers_of(agree(secret, public, purpose + b"|pair|" + pair), len(numbers))
    if (name < other) != off:
        numbers += random
    else:
        numbers -= random
