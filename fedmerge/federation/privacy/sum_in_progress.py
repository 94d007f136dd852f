"""What a hospital keeps of one secure sum between two replies, in memory or as a state dict."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch

from fedmerge.federation.privacy.ledger import Subject
from fedmerge.federation.privacy.secure_keys import to_bytes, to_tensor
from fedmerge.federation.privacy.secure_sum import Words
from fedmerge.federation.schema.secure import Advert
from fedmerge.models.state import State


@dataclass
class SumInProgress:
    """One sum in progress. words: the numbers, until they are unmasked; later fields are filled in turn.

    masking, sharing, own: the private keys and the seed of the hospital's own mask. advert: its public keys;
    adverts: those of all participants. given: its shares for the others, by name. parties: the participants
    whose numbers are masked together. held: the others' shares.
    """

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

    def state(self) -> State:
        """Return all of it as ``sum`` and ``words``; private keys are in it."""
        content = {
            "subject": self.subject.written(),
            "secrets": [self.masking.hex(), self.sharing.hex(), self.own.hex()],
            "advert": self.advert.model_dump(),
            "adverts": [advert.model_dump() for advert in self.adverts.values()],
            "given": self.given,
            "parties": self.parties,
            "held": self.held,
        }
        found = {"sum": to_tensor(json.dumps(content).encode())}
        return found if self.words is None else found | {"words": torch.from_numpy(self.words.view(np.int64))}

    @classmethod
    def of(cls, state: State) -> SumInProgress:
        """Return the sum of a state dict from ``state``."""
        content = json.loads(to_bytes(state["sum"]))
        masking, sharing, own = (bytes.fromhex(secret) for secret in content["secrets"])
        adverts = [Advert(**advert) for advert in content["adverts"]]
        return cls(
            Subject.read(content["subject"]),
            state["words"].numpy().view(np.uint64) if "words" in state else None,
            masking,
            sharing,
            own,
            Advert(**content["advert"]),
            {advert.name: advert for advert in adverts},
            **{name: content[name] for name in ("given", "parties", "held")},
        )
