"""Secrets of 32 bytes in shares: any ``threshold`` of them give the secret, fewer say nothing of it.

Shamir's scheme over GF(2^128) as pycryptodome has it, one half of the secret after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, islice

from Crypto.Protocol.SecretSharing import Shamir

HALF = 16
TRIES = 300  # subsets of shares that are tried where some of them are wrong


def split(secret: bytes, threshold: int, shares: int) -> list[bytes]:
    """The shares of a 32-byte secret, 32 bytes each; the i-th belongs to number i + 1."""
    halves = [Shamir.split(threshold, shares, secret[at : at + HALF], ssss=False) for at in (0, HALF)]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from exactly ``threshold`` shares by their numbers; from fewer or wrong ones, anything."""
    return b"".join(
        Shamir.combine([(number, share[at : at + HALF]) for number, share in shares.items()], ssss=False)
        for at in (0, HALF)
    )


def recover(shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]) -> bytes | None:
    """The secret for which ``right`` holds; None where the shares do not give it.

    With more shares than needed it is found, too, if a few of them are wrong.
    """
    for chosen in islice(combinations(sorted(shares), threshold), TRIES):
        secret = combine({number: shares[number] for number in chosen})
        if right(secret):
            return secret
    return None
