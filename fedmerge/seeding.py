"""Every random draw comes from a generator derived from (seed, purpose, round, site).

Two draws with different purposes never share a stream, so adding a method, a site or a round changes
nothing that was drawn for the others. The one exception is noise that protects people, because whoever knows
a seed can draw the same noise (``federation.privacy.noise``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fedmerge.errors import FedMergeError


def derive(seed: int, purpose: str, round: int = 0, site: str = "") -> int:
    """Return a 63-bit integer that depends on all four arguments (SHA-256 of their text).

    Raises FedMergeError for a seed that is no whole number.
    """
    try:
        whole = int(seed)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole = None
    if whole is None or whole != seed:
        raise FedMergeError(f"the seed {seed!r} is no whole number: give one, such as 0.")
    text = f"{whole}|{purpose}|{int(round)}|{site}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, round: int = 0, site: str = "") -> torch.Generator:
    """Return a CPU ``torch.Generator`` for one purpose; CPU, so that draws do not depend on the device."""
    return torch.Generator().manual_seed(derive(seed, purpose, round, site))


def numpy_generator(seed: int, purpose: str, round: int = 0, site: str = "") -> np.random.Generator:
    """Return a ``numpy.random.Generator`` for one purpose."""
    return np.random.default_rng(derive(seed, purpose, round, site))


@dataclass(frozen=True)
class Draws:
    """All that one piece of work draws: a generator a purpose, of the same seed, round and site.

    purpose: of the whole; ``generator("order")`` is for the purpose "PURPOSE-order".
    """

    seed: int
    purpose: str = "train"
    round: int = 0
    site: str = ""

    def derive(self, what: str) -> int:
        """Return the integer that the draws of ``what`` begin with."""
        return derive(self.seed, f"{self.purpose}-{what}", self.round, self.site)

    def generator(self, what: str) -> torch.Generator:
        """Return the generator of ``what``, on the CPU."""
        return torch.Generator().manual_seed(self.derive(what))


@contextmanager
def seeded(seed: int, purpose: str, round: int = 0, site: str = "") -> Iterator[None]:
    """Seed torch's global generators inside the block (initialisation, dropout); restore them after it."""
    with seeded_with(derive(seed, purpose, round, site)):
        yield


@contextmanager
def seeded_with(start: int) -> Iterator[None]:
    """Seed torch's global generators with what ``derive`` gave inside the block; restore them after it."""
    with torch.random.fork_rng():
        torch.manual_seed(start)
        yield
