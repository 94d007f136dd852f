"""A hospital's sum in progress: its secrets, their shares for the others, and its state between replies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.secure.ledger import Subject
from fedmerge.federation.messages.secure import Advert
from fedmerge.federation.privacy.secure_keys import purpose_of, to_bytes, to_tensor
from fedmerge.federation.privacy.secure_sum import Words, agree, threshold
from fedmerge.federation.privacy.shamir import split
from fedmerge.models.state import State

NONCE = bytes(12)  # each key encrypts one text


@dataclass
class OpenSum:
    """One sum in progress. words: the numbers, until they are unmasked; later fields are filled in turn."""

    subject: Subject
    words: Words | None
    masking: bytes
    sharing: bytes
    own: bytes
    advert: Advert
    adverts: dict[str, Advert] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    parties: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)

    def state_dict(self) -> State:
        """Return the sum as tensors, for a process that ends between two replies; it holds private keys."""
        said = {
            "subject": self.subject.written(),
            "secrets": [self.masking.hex(), self.sharing.hex(), self.own.hex()],
            "advert": self.advert.model_dump(),
            "adverts": [advert.model_dump() for advert in self.adverts.values()],
            "given": self.given,
            "parties": self.parties,
            "held": self.held,
        }
        kept: State = {"sum": to_tensor(json.dumps(said).encode())}
        if self.words is not None:
            kept["words"] = torch.from_numpy(self.words.view(np.int64))
        return kept

    @classmethod
    def of(cls, state: State) -> OpenSum:
        """Return the sum that ``state_dict`` returned."""
        said = json.loads(to_bytes(state["sum"]))
        adverts = [Advert(**advert) for advert in said["adverts"]]
        masking, sharing, own = (bytes.fromhex(secret) for secret in said["secrets"])
        return cls(
            Subject.read(said["subject"]),
            state["words"].numpy().view(np.uint64) if "words" in state else None,
            masking,
            sharing,
            own,
            Advert(**said["advert"]),
            {advert.name: advert for advert in adverts},
            **{name: said[name] for name in ("given", "parties", "held")},
        )


def split_secrets(now: OpenSum, me: str) -> dict[str, str]:
    """Return the shares of both secrets by name, encrypted for the others, in clear for ``me``."""
    names = list(now.adverts)
    most = threshold(len(names))
    parts = (split(secret, most, len(names)) for secret in (now.own, now.masking))
    given = {}
    for name, own, pair in zip(names, *parts, strict=True):
        text = own + pair
        sealed = text if name == me else _box(now, name, me, name).encrypt(NONCE, text, None)
        given[name] = sealed.hex()
    return given


def open_shares(now: OpenSum, name: str, me: str, sealed: str) -> str:
    """Return the shares that ``name`` encrypted for ``me``. Raises FedMergeError if it did not."""
    try:
        return _box(now, name, name, me).decrypt(NONCE, bytes.fromhex(sealed), None).hex()
    except (InvalidTag, ValueError):
        raise FedMergeError(
            f"the shares of '{name}' are not what it wrote for '{me}' in '{now.subject.label}'."
        ) from None


def _box(now: OpenSum, other: str, sender: str, receiver: str) -> AESGCM:
    """Return the cipher from one hospital to another, for this sum only. other: the one that is not here."""
    purpose = purpose_of(now.adverts, now.adverts) + f"|shares|{json.dumps([sender, receiver])}".encode()
    return AESGCM(agree(now.sharing, bytes.fromhex(now.adverts[other].sharing), purpose))
