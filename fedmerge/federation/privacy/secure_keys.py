"""The keys of one secure sum: what each hospital advertises and signs, and how a list of them is checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.identity import Identity, signed
from fedmerge.federation.privacy.secure_sum import FEWEST, agree, new_secret
from fedmerge.models.state import State
from fedmerge.validation import validate

WORDS, NUMBERS = "secure", "numbers"  # the entries of an answer: JSON as bytes, and masked numbers
MOST = 1000  # hospitals in a sum; Shamir's numbers and the fixed point have room for more
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=300)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Answered = TypeVar("Answered", bound=BaseModel)


class Strict(BaseModel):
    """A part of a message; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Advert(Strict):
    """The keys of one hospital for one sum, signed by it.

    label: of the sum. identity: the public key that belongs to ``signature``. masking, sharing: public keys
    made for this sum, from which masks come, and under which shares travel.
    """

    label: Label
    name: Name
    identity: Annotated[str, Field(max_length=400)]
    masking: Key
    sharing: Key
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{2,300}$")]

    @classmethod
    def make(cls, identity: Identity, label: str, name: str, masking: bytes, sharing: bytes) -> Advert:
        """One that is signed."""
        keys = {"masking": masking.hex(), "sharing": sharing.hex()}
        said = {"label": label, "name": name, "identity": identity.public} | keys
        return cls(**said, signature=identity.sign(_said("keys", said)))

    def check(self) -> None:
        """Raise FedMergeError where the signature is not that of ``identity``, or a key is of small order."""
        said = self.model_dump(exclude={"signature"})
        if not signed(self.identity, _said("keys", said), self.signature):
            raise FedMergeError(f"the keys of hospital '{self.name}' are not signed with its key.")
        for key in (self.masking, self.sharing):
            agree(new_secret(), bytes.fromhex(key), b"")


def check_list(adverts: Sequence[Advert], own: Advert, fewest: int) -> dict[str, Advert]:
    """The list of participants by name, in order, as one of them checks it; FedMergeError where it is none.

    Enough hospitals, each once, with keys of its own that are for this sum and signed; this one as it is.
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
        advert.check()
    if own not in adverts:
        raise FedMergeError(
            f"hospital '{own.name}' is not among those to be summed with the keys that it gave."
        )
    return {advert.name: advert for advert in sorted(adverts, key=lambda advert: advert.name)}


def purpose_of(adverts: Mapping[str, Advert], parties: Iterable[str]) -> bytes:
    """What the masks of one sum are for: the keys of all participants, and who of them is in it."""
    named = [adverts[name].model_dump() for name in sorted(adverts)]
    return hashlib.sha256(_said("sum", [named, sorted(parties)])).digest()


def vote(adverts: Mapping[str, Advert], parties: Iterable[str], survivors: Iterable[str]) -> bytes:
    """What a hospital signs that has heard who is in the sum."""
    return _said("survivors", [purpose_of(adverts, parties).hex(), sorted(survivors)])


def pack(data: Any, numbers: np.ndarray | None = None) -> State:
    """JSON, and masked numbers where there are some, as the arrays of a message."""
    state = {WORDS: to_tensor(json.dumps(data).encode())}
    return state if numbers is None else state | {NUMBERS: torch.from_numpy(numbers.view(np.int64))}


def unpack(state: State | None, schema: type[Answered], whose: str) -> Answered:
    """What ``pack`` wrote, checked. Raises FedMergeError for anything else."""
    given = (state or {}).get(WORDS)
    if given is None or given.dtype != torch.uint8 or given.dim() != 1:
        raise FedMergeError(f"{whose} has no part '{WORDS}' of a secure sum")
    try:
        data = json.loads(given.numpy().tobytes())
    except (ValueError, RecursionError):
        raise FedMergeError(f"{whose} has a part '{WORDS}' that cannot be read") from None
    return validate(schema, data if isinstance(data, dict) else {"": data}, whose)


def to_tensor(data: bytes) -> torch.Tensor:
    """Bytes as a tensor."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def to_bytes(data: torch.Tensor) -> bytes:
    """The inverse of ``to_tensor``."""
    return data.numpy().tobytes()


def _said(kind: str, what: Any) -> bytes:
    return f"FedMerge secure {kind} 1\n".encode() + json.dumps(what, sort_keys=True).encode()
