"""The cell: all that one federation of one seed does, as steps that need each other.

``fedmerge run`` does the steps of its cells in its folder; ``fedmerge bench`` names the same steps by what
decides them, so that cells share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.federations import Federation
from fedmerge.experiment.configuration.needs import needs_of
from fedmerge.experiment.kinds import (
    ALONE,
    DIAGNOSIS,
    EVALUATE,
    EVALUATION,
    FINE_TUNE,
    FUSION,
    MAJORITY,
    POOLED,
    REFERENCE,
    ROUNDS,
    TEST_TIME,
    TRAINING,
)
from fedmerge.experiment.target_supervised import BEST_SOURCE, ORACLE


@dataclass(frozen=True)
class Step:
    """A step of a cell. kind: its stage. needs: names of the steps whose models or numbers it reads.

    target: of pooled training and evaluations. rows, entry: of an evaluation, the kind of its rows and the
    method.
    """

    kind: str
    needs: tuple[str, ...] = ()
    target: str = ""
    rows: str = ""
    entry: MethodConfig | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words that name its checkpoint in a run's folder."""
        if self.entry is not None:
            return EVALUATION, self.target, self.entry.label
        return (TRAINING, self.kind, self.target) if self.target else (TRAINING, self.kind)

    @property
    def name(self) -> str:
        """Its name in the cell."""
        return "/".join(self.words)

    @property
    def label(self) -> str:
        """The step in words for people."""
        if self.entry is not None:
            return f"{self.entry.label} at {self.target}"
        names = {FINE_TUNE: "fine-tuning", POOLED: f"pooled training for {self.target}"}
        return names.get(self.kind, self.kind)

    @property
    def federated(self) -> bool:
        """Whether it asks hospitals for something."""
        return self.kind in (ROUNDS, FINE_TUNE, DIAGNOSIS) or self.rows == FUSION

    @property
    def from_pooled(self) -> bool:
        """Whether it evaluates the network of pooled training instead of the hospitals' own models."""
        return self.rows == POOLED or (self.entry is not None and self.entry.start == "pooled")


def steps(
    experiment: Experiment,
    federation: Federation,
    references: Sequence[str] = (ALONE, POOLED),
    *,
    diagnosed: bool = False,
    told: bool = False,
) -> Iterator[Step]:
    """Yield the steps of a cell, each after those that it needs.

    references: kinds of reference rows besides the majority class, in the order of the table. diagnosed:
    whether the hospitals' models are diagnosed. told: whether hospitals tell how many images of each class
    they have, because theirs are elsewhere.
    """
    begun: tuple[str, ...] = ()
    if experiment.training.rounds:
        yield (rounds := Step(ROUNDS))
        begun = (rounds.name,)
    yield (own := Step(FINE_TUNE, begun))
    if diagnosed:
        yield Step(DIAGNOSIS, (own.name,))
    majority = MethodConfig(method=MAJORITY, label=MAJORITY)
    for target in federation.targets:
        pooled = Step(POOLED, target=target)
        if POOLED in references or any(entry.start == "pooled" for entry in experiment.testtime):
            yield pooled
        yield Step(EVALUATE, (own.name,) if told else (), target, REFERENCE, majority)
        for rows, entry in _methods(experiment, references):
            step = Step(EVALUATE, (), target, rows, entry)
            started = needs_of(entry).shared_start if rows == FUSION else entry.needs_federated
            source = pooled if step.from_pooled else own
            yield Step(EVALUATE, (source.name, *(begun if started else ())), target, rows, entry)


def _methods(experiment: Experiment, references: Sequence[str]) -> Iterator[tuple[str, MethodConfig]]:
    for reference in references:
        if reference == ORACLE:  # it measures nothing itself: it takes the rows of the hospitals alone
            yield reference, MethodConfig(method=ALONE, label=BEST_SOURCE)
        else:
            yield reference, MethodConfig(method=reference, label=reference)
    yield from ((FUSION, entry) for entry in experiment.fusion)
    yield from ((TEST_TIME, entry) for entry in experiment.testtime)
