"""The keys of one secure sum: the signed advert of each hospital, and the check of a list of adverts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedmerge.errors import FedMergeError
from fedmerge.federation.messages.secure import Advert
from fedmerge.federation.privacy.identity import Identity, signed
from fedmerge.federation.privacy.secure_sum import FEWEST, agree, new_secret

NUMBERS = "numbers"  # the array of masked numbers in a reply


def make_advert(identity: Identity, label: str, name: str, masking: bytes, sharing: bytes) -> Advert:
    """Return the signed keys of a hospital for a sum."""
    keys = {"masking": masking.hex(), "sharing": sharing.hex()}
    said = {"label": label, "name": name, "identity": identity.public} | keys
    return Advert(**said, signature=identity.sign(_said("keys", said)))


def no_keys(name: str) -> dict[str, str]:
    """Return placeholder keys, for a reply without real ones."""
    nothing = {"identity": "none", "masking": "0" * 64, "sharing": "0" * 64, "signature": "00"}
    return {"label": "none", "name": name} | nothing


def check_advert(advert: Advert) -> None:
    """Raise FedMergeError if the signature is not by ``identity``, or a key is of small order."""
    said = advert.model_dump(exclude={"signature"})
    if not signed(advert.identity, _said("keys", said), advert.signature):
        raise FedMergeError(f"the keys of hospital '{advert.name}' are not signed with its key.")
    for key in (advert.masking, advert.sharing):
        agree(new_secret(), bytes.fromhex(key), b"")


def check_list(adverts: Sequence[Advert], own: Advert, fewest: int) -> dict[str, Advert]:
    """Check a list of participants as one of them; return it by name, in order. Raises FedMergeError.

    There must be enough hospitals, each once, with its own signed keys for this sum, and ``own`` among them.
    """
    if len(adverts) < max(FEWEST, fewest):
        raise FedMergeError(
            f"a secure sum takes at least {max(FEWEST, fewest)} hospitals, but the list has {len(adverts)}: "
            "from a smaller sum, one could read another's numbers."
        )
    for field in ("name", "identity", "masking", "sharing"):
        if len({getattr(advert, field) for advert in adverts}) < len(adverts):
            raise FedMergeError(f"two hospitals in the list of a secure sum have the same {field}.")
    for advert in adverts:
        if advert.label != own.label:
            raise FedMergeError(
                f"the keys of hospital '{advert.name}' are for another sum ('{advert.label}', not "
                f"'{own.label}'): keys are used once."
            )
        check_advert(advert)
    if own not in adverts:
        raise FedMergeError(
            f"hospital '{own.name}' is not among those to be summed with the keys that it gave."
        )
    return {advert.name: advert for advert in sorted(adverts, key=lambda advert: advert.name)}


def purpose_of(adverts: Mapping[str, Advert], parties: Iterable[str]) -> bytes:
    """Return a hash that binds masks to one sum: the keys of all hospitals, and the participants."""
    named = [adverts[name].model_dump() for name in sorted(adverts)]
    return hashlib.sha256(_said("sum", [named, sorted(parties)])).digest()


def vote(adverts: Mapping[str, Advert], parties: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Return the bytes that a hospital signs to confirm the survivors of a sum."""
    return _said("survivors", [purpose_of(adverts, parties).hex(), sorted(survivors)])


def to_tensor(data: bytes) -> torch.Tensor:
    """Return bytes as a tensor."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def to_bytes(data: torch.Tensor) -> bytes:
    """Return a tensor as bytes, the inverse of ``to_tensor``."""
    return data.numpy().tobytes()


def _said(kind: str, what: Any) -> bytes:
    return f"FedMerge secure {kind} 1\n".encode() + json.dumps(what, sort_keys=True).encode()
