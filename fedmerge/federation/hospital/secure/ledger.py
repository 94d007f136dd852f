"""A hospital's ledger of secure sums: which numbers it gave for which list of hospitals.

The difference of two sums of the same numbers, one with and one without a hospital, is that hospital's
numbers. So numbers go into sums of one list of participants and one list of survivors for ever, also after a
crash of the server and whatever it calls the run. Numbers are recognised by their label, by their digest, and
by a sample, because a server could have a hospital train again with a change that hardly matters.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.log import HospitalLog

FILE = "secure-sums.jsonl"
SAMPLE = 512  # numbers of a vector that the ledger keeps
NEAR, HALF, FEW = 0.1, 0.5, 16
"""Two vectors are the same if more than half of the sampled numbers that training moved (at least 16, else
they must be equal) differ by at most a tenth of that movement."""


@dataclass(frozen=True)
class Subject:
    """A hospital's numbers for one sum. label: the server's name of the sum. digest: of the numbers.

    numbers, moved: a sample of the numbers, and how far training moved each; empty if only equal digests
    count as the same numbers. images: for sums over images, the name of their set in the ledger of sums.
    """

    label: str
    digest: str
    numbers: np.ndarray
    moved: np.ndarray
    images: str = ""

    @classmethod
    def of(cls, label: str, digest: str, ledger: SecureLedger, numbers: Any = (), moved: Any = ()) -> Subject:
        """Return the subject with the ledger's sample of the numbers. numbers, moved: all of them, flat."""
        if not len(numbers):
            return cls(label, digest, _NOTHING, _NOTHING)
        at = ledger.places(len(numbers))
        sample, change = (np.asarray(given)[at].astype(np.float32) for given in (numbers, moved))
        return cls(label, digest, sample, change)

    def same(self, other: Subject) -> bool:
        """Check whether sums of this and of ``other`` must have the same hospitals."""
        return other.label == self.label or other.digest == self.digest or self._near(other)

    def _near(self, other: Subject) -> bool:
        if not len(self.numbers) or self.numbers.shape != other.numbers.shape:
            return False
        scale = np.maximum(np.abs(self.moved), np.abs(other.moved))
        moved = scale > 0
        if moved.sum() < min(FEW, len(scale)):
            return bool(np.array_equal(self.numbers, other.numbers))
        close = np.abs(self.numbers - other.numbers) <= NEAR * scale
        return bool(close[moved].mean() > HALF)

    def written(self) -> dict[str, str]:
        """Return the subject as JSON values."""
        sample = {"numbers": _text(self.numbers), "moved": _text(self.moved)} if len(self.numbers) else {}
        about = {"images": self.images} if self.images else {}
        return {"label": self.label, "weights": self.digest} | sample | about

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Subject:
        """Read a subject from ``written``."""
        numbers, moved = (_floats(entry.get(name, "")) for name in ("numbers", "moved"))
        return cls(entry["label"], entry["weights"], numbers, moved, entry.get("images", ""))


class SecureLedger(HospitalLog):
    """One hospital's ledger: in its folder, under ``records``, or, in a simulation, in memory."""

    def __init__(self, folder: Path | None, site: str) -> None:
        super().__init__(None if folder is None else folder / "records", FILE)
        self.site = site

    def join(self, subject: Subject, parties: Sequence[str]) -> None:
        """Record the participants of these numbers. Raises FedMergeError for others than before."""
        self._note("participants", subject, sorted(parties))

    def vote(self, subject: Subject, survivors: Sequence[str]) -> None:
        """Record the survivors whose sum is unmasked. Raises FedMergeError for others than before."""
        self._note("survivors", subject, sorted(survivors))

    def places(self, length: int) -> np.ndarray:
        """Return the sampled places of a vector: always the same, and unknown to the server."""
        salt = next((entry["salt"] for entry in self._entries() if entry["what"] == "salt"), None)
        if salt is None:
            with self._locked():
                salt = secrets.token_hex(32)
                self._append({"what": "salt", "salt": salt})
            return self.places(length)  # the first of two processes' salts counts
        seed = hashlib.sha256(f"{salt}|{length}".encode()).digest()
        draws = np.random.default_rng(int.from_bytes(seed, "big"))
        return draws.permutation(length)[:SAMPLE] if length <= 10_000 else draws.integers(0, length, SAMPLE)

    def _note(self, what: str, subject: Subject, names: list[str]) -> None:
        with self._locked():
            for entry in self._entries():
                if entry["what"] != what or not subject.same(Subject.read(entry)):
                    continue
                if entry["names"] != names:
                    raise FedMergeError(
                        f"hospital '{self.site}' has answered for other {what} with these numbers ("
                        f"{', '.join(entry['names'])}; now {', '.join(names)}), in '{entry['label']}': the "
                        "difference of two sums would show a hospital's numbers. This sum is left out; the "
                        "run can go on."
                    )
                if entry["label"] == subject.label and entry["weights"] == subject.digest:
                    return
            self._append({"what": what, "names": names} | subject.written())


_NOTHING = np.zeros(0, dtype=np.float32)


def _text(numbers: np.ndarray) -> str:
    return b64encode(numbers.astype("<f4").tobytes()).decode()


def _floats(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), dtype="<f4")
