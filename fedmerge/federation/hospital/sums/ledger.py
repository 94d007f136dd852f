"""The ledger of image sets over which a hospital gave sums; it refuses sets that single out a few images.

The sums over sets A_1, …, A_k, of any requests and sessions, can be added and subtracted. The sets cut the
images into cells: two images are in one cell if the same sets contain them. Every combination of the sums
weighs the images of a cell alike, so it tells only of whole cells. A set is refused if it would make a new
cell with fewer images than the hospital's minimum. That covers differences, unions, chains A in B in C, and
any number of sets; it refuses more than necessary, as it does not ask which cells a combination can single
out. Images of equal content count once, but each copy has its own place in a set.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.log import HospitalLog
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.storage.files import make_folder, saying, sync

FILE, KEY = "sums.jsonl", "sums.key"
DIGITS = 32  # hexadecimal digits of an image's code: 128 bits
Names = frozenset[str]


class Ledger(HospitalLog):
    """The log of answered requests: in ``folder``, where it outlives the process, or, for None, in memory.

    An image's name in it is a keyed hash; the key is the hospital's own. rules: the ledger enforces
    ``minimum_images``, ``requests`` and ``epsilon``.
    """

    def __init__(self, folder: Path | None, site: str, rules: SumRules) -> None:
        super().__init__(folder, FILE)
        self.site = site
        self.rules = rules
        self._key = os.urandom(32) if folder is None else b""
        self._cells: list[Names] = []
        self._known: dict[str, Names] = {}
        self._asked: dict[str, set[str]] = defaultdict(set)
        self._requests: Counter[str] = Counter()
        self._together: dict[str, list[str]] = {}
        self._noised = 0
        self._seen = (0, 0)  # entries replayed, and the log's length then

    @property
    def key(self) -> bytes:
        """The hospital's secret, drawn when first needed; it never leaves the folder."""
        if not self._key:
            assert self._folder is not None
            self._key = _secret(self._folder)
        return self._key

    def names(self, images: Tensor) -> Names:
        """Return the names of images (N x C x H x W); copies of one image are numbered."""
        found: Counter[str] = Counter()
        names = []
        for image in images.detach().cpu().contiguous():
            told = f"{image.dtype} {tuple(image.shape)} ".encode() + image.numpy().tobytes()
            code = hmac.new(self.key, told, hashlib.sha256).hexdigest()[:DIGITS]
            names.append(code if not found[code] else f"{code}#{found[code]}")
            found[code] += 1
        return frozenset(names)

    def check(self, names: Names) -> None:
        """Raise FedMergeError if sums over this set, with those given before, would single out few images."""
        with self._locked():
            self._catch_up()
            self._check(names)

    def record(self, names: Names, kind: str, request: str = "", sums: int = 0) -> None:
        """Check a set, and record a request about it before the reply leaves.

        request: its digest, if a second reply would equal the first; "" if each counts. sums: the number of
        noised sums in the reply. Raises FedMergeError if the request must not be answered.
        """
        with self._locked():
            self._catch_up()
            self._check(names)
            number = _number(names)
            if request and request in self._asked[number]:
                return
            self._check_budgets(number, sums)
            if number not in self._known:
                least = self.rules.minimum_images
                self._write({"what": "set", "set": number, "images": sorted(names), "minimum": least})
            self._write({"what": "request", "set": number, "kind": kind, "request": request, "sums": sums})

    def number(self, names: Names) -> str:
        """Return the name of a set in the ledger."""
        return _number(names)

    def check_together(self, number: str, hospitals: Sequence[str]) -> None:
        """Raise FedMergeError if images of a set were summed under masks with another list of hospitals.

        The difference of two sums over the same images, one with and one without a hospital, is that
        hospital's sums. The two need not answer the same request: many replies hold the same numbers (a Gram
        matrix has the sums of squares on its diagonal). So images belong to one list for ever.
        """
        with self._locked():
            self._catch_up()
            self._check_together(number, hospitals)

    def record_together(self, number: str, hospitals: Sequence[str]) -> None:
        """Check the list as ``check_together`` does, and record it before the sum is unmasked."""
        with self._locked():
            self._catch_up()
            self._check_together(number, hospitals)
            if number not in self._together:
                self._write({"what": "hospitals", "set": number, "hospitals": sorted(hospitals)})

    def _check_together(self, number: str, hospitals: Sequence[str]) -> None:
        names = self._known.get(number, frozenset())
        for other, before in self._together.items():
            near = other == number or bool(names & self._known.get(other, frozenset()))
            if near and before != sorted(hospitals):
                raise FedMergeError(
                    f"hospital '{self.site}' has given sums over these images under masks with "
                    f"{', '.join(before)}, and now is asked with {', '.join(sorted(hospitals))}: the "
                    "difference of two sums would show a hospital's own. Ask the same hospitals again, or "
                    "for images that were not asked for before."
                )

    def noised(self) -> int:
        """Return the number of noised sums given over all sets, for ``SumRules.spent``."""
        with self._locked():
            self._catch_up()
        return self._noised

    def _check_budgets(self, number: str, sums: int) -> None:
        most, rules = self.rules.requests, self.rules
        if most is not None and self._requests[number] >= most:
            raise FedMergeError(
                f"site '{self.site}' has answered {most} requests about these images, and answers no more: "
                "its owner may raise 'requests' in its rules for sums."
            )
        cost = rules.spent(self._noised + sums) if rules.epsilon is not None else 0.0
        if rules.epsilon is not None and cost > rules.epsilon:
            raise FedMergeError(
                f"site '{self.site}': with this reply its noised sums would cost epsilon {cost:.3g} at "
                f"delta {rules.delta:g}, more than the {rules.epsilon:g} that it allows: ask fewer "
                "requests, or its owner may raise 'epsilon' or 'noise' in its rules for sums."
            )

    def _check(self, names: Names) -> None:
        size, least = _size(names), self.rules.minimum_images
        if size < least:
            raise FedMergeError(
                f"site '{self.site}' gives sums over at least {least} images, because sums over fewer "
                f"say much about each, but its share has {size} different ones: ask for more images, "
                "take them from a larger split, or leave the site out."
            )
        if _number(names) in self._known:
            return
        few = min((_size(part) for part in _parts(names, self._cells)), default=least)
        if few < least:
            raise FedMergeError(
                f"site '{self.site}' has given sums over other sets of its images: with these, {few} of them "
                f"could be told apart from the others, and it lets no fewer than {least} be. Ask for "
                f"the same images as before (number, split and seed), or for at least {least} more or "
                "fewer with the same seed."
            )

    def _write(self, entry: dict[str, Any]) -> None:
        self._append(entry)
        self._catch_up()

    def _catch_up(self) -> None:
        """Read the entries that were written since, also by other processes."""
        size = self._length()
        if size == self._seen[1]:
            return
        entries = self._entries()
        self._check_key(entries)
        for entry in entries[self._seen[0] :]:
            self._replay(entry)
        self._seen = (len(entries), size)

    def _replay(self, entry: dict[str, Any]) -> None:
        if entry["what"] == "set":
            names = frozenset(entry["images"])
            self._known[entry["set"]] = names
            parts = [(cell & names, cell - names) for cell in self._cells]
            new = names.difference(*self._cells)
            self._cells = [part for both in parts for part in both if part] + ([new] if new else [])
        elif entry["what"] == "hospitals":
            self._together[entry["set"]] = list(entry["hospitals"])
        elif entry["what"] == "request":
            self._requests[entry["set"]] += 1
            self._asked[entry["set"]].add(entry["request"])
            self._noised += int(entry["sums"])

    def _check_key(self, entries: list[dict[str, Any]]) -> None:
        """Raise FedMergeError for another key than the ledger's: under it, images would have other names."""
        if self._folder is not None and entries and entries[0].get("key") != _print(self.key):
            raise FedMergeError(
                f"'{KEY}' is not the key of the ledger '{self._folder / FILE}': put back the one that was "
                "there. Without it no sums are given."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the ledger for one process; write a fingerprint of the key as the first entry."""
        with super()._locked():
            if self._folder is not None and not self._length():
                self._append({"what": "key", "key": _print(self.key)})
            yield


def _parts(names: Names, cells: list[Names]) -> Iterator[Names]:
    """Yield the cells that a set would make: both parts of each cell it cuts, and the images new to all."""
    for cell in cells:
        inside = cell & names
        if inside and len(inside) < len(cell):
            yield inside
            yield cell - inside
    new = names.difference(*cells)
    if new:
        yield new


def _size(names: Names) -> int:
    """Return the number of different images; copies count once."""
    return len({name.partition("#")[0] for name in names})


def _number(names: Names) -> str:
    return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:DIGITS]


def _print(key: bytes) -> str:
    return hmac.new(key, b"the key of this ledger", hashlib.sha256).hexdigest()


def _secret(folder: Path) -> bytes:
    """Return the key in a folder; make one if it is missing, atomically, readable only by its owner."""
    path = folder / KEY
    make_folder(folder)
    with saying(path):
        if not path.exists():
            part = folder / f".{KEY}.{os.getpid()}"
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # fails where another process was first
            except FileExistsError:
                pass
            finally:
                part.unlink()
            sync(folder)
        return path.read_bytes()
