"""What became of hospitals that gave no usable answer: every attempt is a record, and rules decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fedmerge.errors import FedMergeError
from fedmerge.federation.options import FederationOptions

Then = Literal["left out", "asked again", "began anew", "round void", "ended the run"]


@dataclass(frozen=True)
class Failure:
    """An attempt of a hospital that gave no usable answer: when, who, why in a sentence, and what then.

    Or a hospital that lost what it kept between rounds, and began anew; or a round that came to nothing.
    """

    round: int
    phase: str
    site: str
    reason: str
    attempt: int = 1
    then: Then = "left out"


@dataclass
class Failures:
    """The failures of a run, and what ``on_failure``, ``retries`` and ``quorum`` make of them."""

    rules: FederationOptions
    records: list[Failure] = field(default_factory=list)

    def happened(self, round: int, phase: str, site: str, reason: str, attempt: int, *, last: bool) -> None:
        """Record a failure; ``last``: the hospital is not asked again. Raises with ``on_failure: abort``."""
        abort = self.rules.on_failure == "abort"
        then: Then = "ended the run" if abort else "left out" if last else "asked again"
        self.records.append(Failure(round, phase, site, reason, attempt, then))
        if abort:
            where = f"round {round} ({phase})" if round else phase
            raise FedMergeError(
                f"hospital '{site}' failed in {where}: {reason} (on_failure: skip would go on without it)"
            )

    def began_anew(self, round: int, phase: str, site: str, since: int) -> None:
        """Record a hospital that no longer has its own part of the model, as it was after round ``since``."""
        reason = (
            f"it no longer has its own part of the model, as it was after round {since}, because its process "
            "was started anew: it began with the federation's"
        )
        self.records.append(Failure(round, phase, site, reason, then="began anew"))

    def void(self, round: int) -> None:
        """Record a round whose secure sum could not be formed."""
        reason = (
            "the masks of a hospital that finished its training and then vanished stay in the sum: the model "
            "is as before the round"
        )
        self.records.append(Failure(round, "sum", "everyone", reason, then="round void"))

    def check_quorum(self, round: int, phase: str, usable: int, asked: int) -> None:
        """Raise FedMergeError if fewer hospitals gave a usable answer than the quorum, with the reasons."""
        if usable >= min(self.rules.quorum, asked):
            return
        here = [f for f in self.records if (f.round, f.phase) == (round, phase) and f.then == "left out"]
        reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in here)
        where = f"round {round} ({phase})" if round else phase
        raise FedMergeError(
            f"{where}: {usable} of {asked} hospitals gave a usable answer, fewer than the "
            f"quorum of {self.rules.quorum}. {reasons}"
        )
