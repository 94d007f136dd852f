"""Shares of a 32-byte secret: any ``threshold`` of them give the secret, fewer reveal nothing of it.

Shamir's scheme over GF(2^128) from pycryptodome, for each half of the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, islice

from Crypto.Protocol.SecretSharing import Shamir

HALF = 16
TRIES = 300  # subsets of shares to try, because some shares may be wrong


def split(secret: bytes, threshold: int, shares: int) -> list[bytes]:
    """Split a 32-byte secret into shares of 32 bytes; the i-th belongs to number i + 1."""
    halves = [Shamir.split(threshold, shares, secret[at : at + HALF], ssss=False) for at in (0, HALF)]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret from exactly ``threshold`` shares by number; fewer or wrong ones give any bytes."""
    return b"".join(
        Shamir.combine([(number, share[at : at + HALF]) for number, share in shares.items()], ssss=False)
        for at in (0, HALF)
    )


def recover(shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]) -> bytes | None:
    """Return the secret for which ``right`` holds; None if the shares do not give it.

    With more shares than needed it is also found if a few of them are wrong.
    """
    for chosen in islice(combinations(sorted(shares), threshold), TRIES):
        secret = combine({number: shares[number] for number in chosen})
        if right(secret):
            return secret
    return None
