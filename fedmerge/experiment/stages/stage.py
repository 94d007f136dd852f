"""A stage at work: a step of a cell on its federation. A run and a study do the same stages.

They differ in where models lie and what is kept in between: ``seed`` and ``tasks`` say that for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedmerge.blame import blamed, exits_named
from fedmerge.errors import FedMergeError
from fedmerge.experiment.cell import Step
from fedmerge.experiment.kinds import START
from fedmerge.experiment.stages.setup import Setup
from fedmerge.experiment.stages.target_streams import TargetStreams
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State
from fedmerge.storage.files import DiskError

if TYPE_CHECKING:
    from fedmerge.federation import Server

Note = dict[str, Any]
"""What a step leaves besides its rows and models, as JSON."""
REFERENCES, FUSED = "references", "fused"


@dataclass(frozen=True)
class Stage(ABC):
    """A step at work. federation: its name in rows of history."""

    setup: Setup
    step: Step
    federation: str

    isolates: ClassVar[bool]
    """Whether a method that fails is a row of failures, and the step is done all the same."""
    keeps_fused: ClassVar[bool]
    """Whether a fused network is kept."""

    @abstractmethod
    def begin(self, server: Server) -> State:
        """Return the weights from which hospitals fine-tune, with server and hospitals as after the rounds.

        Of the rounds themselves: hold them.
        """

    @abstractmethod
    def left_by(self, kind: str) -> Mapping[str, Any]:
        """Return note and rows that a needed step of this kind has left; empty where there is none."""

    @abstractmethod
    def pool(self, name: str) -> ModelPool:
        """Return a pool: ``START``, of the rounds; ``REFERENCES``, of pooled training; or ``FUSED``."""

    def streams(self) -> TargetStreams:
        """Return the streams of images that arrive at the target."""
        return self.setup.target_streams(self.step.target)

    def keep_rounds(self, server: Server, state: State) -> None:
        """Keep the model of the rounds where a test-time method asks for it."""
        if any(entry.needs_federated for entry in self.setup.experiment.testtime):
            self.setup.keep_in(self.pool(START), START, state, "federated rounds", (), {})

    def record_events(self, server: Server) -> None:
        """Record the new rows in history and failures of the federation."""
        self.setup.record.federation(self.setup.seed, self.federation, server.strategy)

    @contextmanager
    def isolated(self, label: str) -> Iterator[None]:
        """Where a stage isolates, turn an error of one method in the block into a row of failures.

        An error that is no method's and no sentence goes on, and so does one of the disk.
        """
        try:
            with exits_named(f"method '{label}'"):
                yield
        except DiskError:
            raise
        except Exception as error:
            said = str(error) if isinstance(error, FedMergeError) else blamed(error, f"method '{label}'")
            if not self.isolates or said is None:
                raise
            self.setup.record.failure(self.setup.seed, label, self.step.target, said)
