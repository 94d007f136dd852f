"""``verify``: check that the files of a run, a study or a folder of models are as they were written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmerge.errors import FedMergeError, short
from fedmerge.models.cards import read_card
from fedmerge.schema.validation import is_folder
from fedmerge.storage.files import digest
from fedmerge.storage.made_list import MADE
from fedmerge.storage.manifest import Check, check
from fedmerge.storage.own_files import MANIFEST
from fedmerge.storage.signature import SignatureState, check_signature, read_public_key

ROOTS = (MANIFEST, MADE, "run.json", "study.yaml")
"""Any of these lies at the root of a run or a study."""
SIGNED = {
    "none": "not signed",
    "good": "signed by the key that was given",
    "not checked": "signed by a key that nobody here was asked to trust (give --key)",
    "other key": "signed by another key than the one that was given",
    "bad": "the signature is not of this manifest: something was changed after it was signed",
}


@dataclass(frozen=True)
class Verified:
    """The finding on a folder: its files, and its signature with the key that this names."""

    folder: Path
    check: Check
    signature: SignatureState
    key: str
    demanded: bool

    @property
    def good(self) -> bool:
        """Whether everything is as it was written, and signed by the demanded key, if there is one."""
        wanted = ("good",) if self.demanded else ("none", "not checked")
        return self.check.good and self.signature in wanted

    @property
    def record(self) -> dict[str, Any]:
        """The whole finding, for JSON."""
        return {
            "folder": str(self.folder),
            "kind": self.check.kind,
            "finished": self.check.finished,
            "good": self.good,
            "checked": self.check.checked,
            "changed": self.check.changed,
            "missing": self.check.missing,
            "unknown": self.check.unknown,
            "linked": self.check.linked,
            "apart": self.check.apart,
            "signature": {"state": self.signature, "key": self.key},
        }


def verify(folder: str | Path, key: str | Path | None = None) -> Verified:
    """Compare all files of a run, a study, a folder in one, or a folder of models with their digests.

    key: the public key that must have signed it. Nothing is written. Raises FedMergeError where the folder is
    none of these, or the key is no key.
    """
    folder = Path(folder)
    trusted = None if key is None else read_public_key(Path(key))
    if not is_folder(folder):
        raise FedMergeError(f"there is no folder '{short(folder)}': check the path.")
    root = _root(folder)
    if root is None:
        return _verified(folder, _check_models(folder), trusted)
    below = os.path.relpath(os.path.realpath(folder), root).replace(os.sep, "/")
    return _verified(root, check(root, "" if below == "." else below), trusted)


def _verified(folder: Path, found: Check, trusted: Ed25519PublicKey | None) -> Verified:
    state, line = check_signature(folder, trusted)
    return Verified(folder, found, state, line, trusted is not None)


def _root(folder: Path) -> Path | None:
    """Return the folder of the run or study that a folder is, or lies in; None for one outside."""
    if any((folder / name).exists() for name in ROOTS):
        return folder
    real = Path(os.path.realpath(folder))
    return next(
        (each for each in real.parents if (each / MANIFEST).is_file() and (each / MADE).is_file()), None
    )


def _check_models(folder: Path) -> Check:
    """Check weights that have cards; a card holds its own digest and that of its weights."""
    files = {path.name: path for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}
    cards = [name for name in files if f"{Path(name).stem}.safetensors" in files and name.endswith(".json")]
    if not cards:
        raise FedMergeError(
            f"'{short(folder)}' is no run, no study, and holds no models with cards, so nothing says what "
            "was written there."
        )
    found = Check("models", finished=True)
    for name in sorted(cards):
        weights = f"{Path(name).stem}.safetensors"
        found.checked += 2
        try:
            card = read_card(files[name])
        except FedMergeError as error:
            found.changed[name] = str(error)
            found.unknown.append(weights)
            continue
        if card.sealed(card.file_sha256) != card or files[name].read_text(encoding="utf-8") != card.text:
            found.changed[name] = "it is not what was written"
        elif digest(files[weights]) != card.file_sha256:
            found.changed[weights] = "its content is another"
    beside = {f"{Path(name).stem}.safetensors" for name in cards}
    found.unknown += sorted(name for name in files if name.endswith(".safetensors") and name not in beside)
    return found
