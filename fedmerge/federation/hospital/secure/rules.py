"""A hospital's own rules for secure sums, a part of its policy; no server overrides them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmerge.errors import FedMergeError
from fedmerge.federation.policy.rules import read_policy
from fedmerge.federation.privacy.secure_sum import FEWEST

OPEN = {
    "train": "weights",
    "evaluate": "scores",
    "query.memory": "part of a model",
    "query.sums_begin": "sums over images",
    "query.sums": "sums over images",
}
"""What a reply shows in the clear, by message type."""


@dataclass(frozen=True)
class SecureRules:
    """A hospital's rules for secure sums.

    only: nothing leaves this hospital without masks. peers: whether other hospitals must be pinned before
    (``listed``) or are pinned when they first come (``first-use``). hospitals: the fewest in a sum.
    """

    only: bool = False
    peers: Literal["listed", "first-use"] = "listed"
    hospitals: int = FEWEST

    @classmethod
    def of(cls, folder: Path | None) -> SecureRules:
        """Read the rules in a node's policy.yaml; a simulation has the defaults."""
        if folder is None:
            return cls()
        policy = read_policy(folder)
        return cls(policy.secure == "only", policy.peers, policy.secure_hospitals)

    def check(self, kind: str, site: str) -> None:
        """Raise FedMergeError for a message whose reply would show in the clear what must be masked."""
        if self.only and kind in OPEN:
            raise FedMergeError(
                f"the policy of '{site}' is 'secure: only': it gives no {OPEN[kind]} of its own, only what "
                "is summed under masks. Set federation.secure_aggregation: true (secure_statistics: "
                "true for sums over images), and ask for nothing else."
            )
