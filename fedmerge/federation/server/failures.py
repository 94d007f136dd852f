"""The failures of hospitals: every attempt without a usable reply is recorded, and ``on_failure`` decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fedmerge.errors import FedMergeError
from fedmerge.federation.plan.options import FederationOptions

Then = Literal["left out", "asked again", "began anew", "counted", "round void", "ended the run"]
Kind = Literal["error", "silent", "late", "refused", "forgot", "injected", "void"]


@dataclass(frozen=True)
class Wrong:
    """Why there is no usable reply: in a word, and in a sentence.

    error: the hospital replied with an error. silent: no reply came. late: after the deadline. refused: the
    reply does not fit the schema, or fails a check.
    """

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Failure:
    """An attempt of a hospital without a usable reply: round, phase, site, reason in a sentence, consequence.

    Also a hospital that lost its client state and began anew (``forgot``), one whose reply was changed by
    fault injection and used all the same (``injected``), or a round without a secure sum (``void``).
    injected: the kinds of fault that were injected.
    """

    round: int
    phase: str
    site: str
    reason: str
    attempt: int = 1
    then: Then = "left out"
    kind: Kind = "error"
    injected: str = ""


@dataclass
class Failures:
    """The failures of a run, and what ``on_failure`` and ``quorum`` do about them."""

    rules: FederationOptions
    records: list[Failure] = field(default_factory=list)

    def happened(
        self,
        round: int,
        phase: str,
        site: str,
        wrong: Wrong,
        attempt: int = 1,
        *,
        last: bool = True,
        injected: str = "",
    ) -> None:
        """Record a failure; ``last``: the hospital is not asked again. Raises with ``on_failure: abort``."""
        abort = self.rules.on_failure == "abort"
        then: Then = "ended the run" if abort else "left out" if last else "asked again"
        self.records.append(Failure(round, phase, site, wrong.reason, attempt, then, wrong.kind, injected))
        if abort:
            where = f"round {round} ({phase})" if round else phase
            raise FedMergeError(
                f"hospital '{site}' failed in {where}: {wrong.reason} (on_failure: skip would go on without "
                "it)"
            )

    def counted(self, round: int, phase: str, site: str, attempt: int, injected: str) -> None:
        """Record a reply that fault injection changed and no check refused."""
        reason = f"its answer was used as it is, with what fault injection did to it ({injected})"
        self.records.append(Failure(round, phase, site, reason, attempt, "counted", "injected", injected))

    def began_anew(self, round: int, phase: str, site: str, since: int) -> None:
        """Record a hospital that lost its own part of the model, which it had after round ``since``."""
        what, anew = "part of the model", "the federation's"
        if self.rules.control_variates:
            what, anew = "control variate", "zero, and the server's keeps what it had of it"
        reason = (
            f"it no longer has its own {what}, as it was after round {since}, because its process "
            f"was started anew: it began with {anew}"
        )
        self.records.append(Failure(round, phase, site, reason, then="began anew", kind="forgot"))

    def void(self, round: int, phase: str, reason: str) -> None:
        """Record that a secure sum could not be formed. Raises with ``on_failure: abort``."""
        after = ": the model is as before the round" if phase == "sum" else ""
        abort = self.rules.on_failure == "abort"
        then: Then = "ended the run" if abort else "round void"
        self.records.append(Failure(round, phase, "everyone", reason + after, then=then, kind="void"))
        if abort:
            where = f"round {round}" if round else f"'{phase}'"
            raise FedMergeError(f"{where} has no sum: {reason} (on_failure: skip would go on).")

    def check_quorum(self, round: int, phase: str, usable: int, asked: int) -> None:
        """Raise FedMergeError, with the reasons, if fewer hospitals than the quorum gave a usable reply."""
        if usable >= min(self.rules.quorum, asked):
            return
        here = [f for f in self.records if (f.round, f.phase) == (round, phase) and f.then == "left out"]
        reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in here)
        where = f"round {round} ({phase})" if round else phase
        raise FedMergeError(
            f"{where}: {usable} of {asked} hospitals gave a usable answer, fewer than the "
            f"quorum of {self.rules.quorum}. {reasons}"
        )
