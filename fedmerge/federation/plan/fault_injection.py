"""Fault injection: which hospitals misbehave, in which rounds, and how; drawn by the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from fedmerge.errors import Faults, unknown
from fedmerge.federation.plan.section import Section
from fedmerge.schema.validation import Distinct
from fedmerge.seeding import numpy_generator

Kind = Literal["crash", "hang", "slow", "nan", "wrong-shape", "huge-norm", "label-flip", "stale"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERYONE = "*"


class Fault(Section):
    """One fault in a hospital's training, and where and when it may strike.

    kind: ``crash`` (no training, an error), ``hang`` (no reply, ever), ``slow`` (its reply comes ``seconds``
    later; the time is counted, not waited), ``nan`` (a weight that is not a number),
    ``wrong-shape`` (a tensor with a row too many), ``huge-norm`` (its update times ``scale``, 1000 by
    default; a negative scale reverses it), ``label-flip`` (it trains with class C - 1 - c for class c),
    ``stale`` (it replies with the weights that it was sent). site: a name, names, or ``*`` for every
    hospital. rounds: numbers (the one after the last round is the fine-tuning), or ``all``. probability: for
    each round and hospital. attempts: strike only in the first so many attempts of a round; None: in all.
    """

    kind: Kind
    site: str | Annotated[tuple[str, ...], Distinct] = EVERYONE
    rounds: Literal["all"] | Annotated[tuple[Annotated[int, Field(ge=1)], ...], Distinct] = "all"
    probability: float = Field(1.0, gt=0, le=1)
    attempts: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    scale: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Fault:
        if (self.kind == "slow") != (self.seconds is not None):
            raise ValueError("a slow hospital needs seconds, and only that: say by how many it is late")
        if self.scale is not None and (self.kind != "huge-norm" or self.scale == 0):
            raise ValueError("scale is what a huge-norm update is multiplied by: a number other than 0")
        return self

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the hospitals it may strike; ``*`` alone for all."""
        return (self.site,) if isinstance(self.site, str) else self.site

    def about(self, site: str, round: int, attempt: int) -> bool:
        """Check whether the fault may strike this hospital in this round and attempt."""
        here = EVERYONE in self.sites or site in self.sites
        now = self.rounds == "all" or round in self.rounds
        return here and now and (self.attempts is None or attempt <= self.attempts)

    def told(self) -> dict[str, Any]:
        """Return the fault as the hospital is told it: kind, seconds, scale."""
        numbers = {"seconds": self.seconds, "scale": self.scale}
        return {"kind": self.kind} | {key: value for key, value in numbers.items() if value is not None}


def faults_for(
    faults: Sequence[Fault], seed: int, round: int, site: str, attempt: int = 1
) -> tuple[Fault, ...]:
    """Return the faults that strike a hospital's training in a round, at its first, second, … attempt.

    Each entry of the plan has its own draw from (seed, "fault", round, site), in the order of the plan:
    an entry added at the end does not change the others.
    """
    draws = numpy_generator(seed, "fault", round, site).random(len(faults))
    return tuple(
        fault
        for fault, draw in zip(faults, draws, strict=True)
        if draw < fault.probability and fault.about(site, round, attempt)
    )


def check_sites(faults: Iterable[Fault], known: Sequence[str]) -> None:
    """Raise FedMergeError for faults that name unknown sites."""
    wrong = Faults()
    for site in (site for fault in faults for site in fault.sites):
        with wrong.kept():
            if site != EVERYONE and site not in known:
                raise unknown("site in federation.faults:", site, known)
    wrong.say()
