"""Tell a run's trackers what goes on; one that fails is told nothing more, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.errors import FedMergeError
from fedmerge.trackers import TRACKERS, Tracker

if TYPE_CHECKING:
    from fedmerge.experiment.configuration.entries import TrackerConfig
    from fedmerge.experiment.stages.record import Record

Row = dict[str, Any]


@contextmanager
def tracked(
    entries: Sequence[TrackerConfig], config: dict[str, Any], folder: Path, record: Record
) -> Iterator[None]:
    """Start the trackers, tell them every new row of the record in the block, and finish them.

    A tracker that raises becomes a failure of the run, and is left out from then on.
    """
    trackers = Trackers(entries, record)
    trackers.each("start", config, folder)
    record.listen = trackers.log if entries else None
    finished = False
    try:
        yield
        finished = True
    finally:
        record.listen = None
        trackers.each("finish", finished)


def check_trackers(entries: Sequence[TrackerConfig]) -> None:
    """Raise FedMergeError for a tracker whose package is not installed, before a run starts."""
    for entry in entries:
        TRACKERS[entry.tracker].call(**entry.options)


class Trackers:
    """The trackers of a run that have not failed."""

    def __init__(self, entries: Sequence[TrackerConfig], record: Record) -> None:
        self._record = record
        self._open: dict[str, Tracker] = {
            entry.tracker: TRACKERS[entry.tracker].call(**entry.options) for entry in entries
        }
        self._results = 0

    def log(self, kind: str, row: Row) -> None:
        """Tell a new row; its step is its round, of results their number so far."""
        self._results += kind == "results"
        self.each("log", kind, row, int(row.get("round", self._results)))

    def each(self, what: str, *told: Any) -> None:
        """Call a method of every tracker."""
        for name, tracker in list(self._open.items()):
            try:
                getattr(tracker, what)(*told)
            except Exception as error:
                del self._open[name]
                said = str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
                seed = int(self._record.results[-1]["seed"]) if self._record.results else 0
                self._record.failure(seed, f"tracker {name}", "server", f"it was told nothing more: {said}")
