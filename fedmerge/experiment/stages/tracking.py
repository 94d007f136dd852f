"""Tell trackers what goes on; one that fails is told nothing more, and the work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmerge.errors import FedMergeError
from fedmerge.trackers import TRACKERS, Tracker

if TYPE_CHECKING:
    from fedmerge.experiment.configuration.entries import TrackerConfig
    from fedmerge.experiment.stages.record import Record

Row = Mapping[str, Any]


@contextmanager
def tracked(
    entries: Sequence[TrackerConfig], config: dict[str, Any], folder: Path, record: Record
) -> Iterator[None]:
    """Start the trackers, tell them every new row of the record in the block, and finish them.

    A tracker that raises becomes a failure of the run, and is left out from then on.
    """

    def failed(name: str, reason: str) -> None:
        seed = int(record.results[-1]["seed"]) if record.results else 0
        record.failure(seed, f"tracker {name}", "server", reason)

    with started(entries, config, folder, failed) as trackers:
        record.listen = trackers.log if entries else None
        try:
            yield
        finally:
            record.listen = None


@contextmanager
def started(
    entries: Sequence[TrackerConfig],
    config: dict[str, Any],
    folder: Path,
    failed: Callable[[str, str], None],
) -> Iterator[Trackers]:
    """Yield the trackers, started; after the block, tell them whether it ended well.

    failed: called with the name of a tracker that raised, and why; it is left out from then on.
    """
    trackers = Trackers(entries, failed)
    trackers.each("start", config, folder)
    finished = False
    try:
        yield trackers
        finished = True
    finally:
        trackers.each("finish", finished)


def check_trackers(entries: Sequence[TrackerConfig]) -> None:
    """Raise FedMergeError for a tracker whose package is not installed, before the work starts."""
    for entry in entries:
        TRACKERS[entry.tracker].call(**entry.options)


class Trackers:
    """The trackers of a run or a study that have not failed."""

    def __init__(self, entries: Sequence[TrackerConfig], failed: Callable[[str, str], None]) -> None:
        self._failed = failed
        self._open: dict[str, Tracker] = {
            entry.tracker: TRACKERS[entry.tracker].call(**entry.options) for entry in entries
        }
        self._told: dict[str, int] = {}

    def log(self, kind: str, row: Row) -> None:
        """Tell a new row; its step is its round where it has one, else how many of its kind there were."""
        self._told[kind] = self._told.get(kind, 0) + 1
        self.each("log", kind, row, int(row.get("round", self._told[kind])))

    def each(self, what: str, *told: Any) -> None:
        """Call a method of every tracker."""
        for name, tracker in list(self._open.items()):
            try:
                getattr(tracker, what)(*told)
            except Exception as error:
                del self._open[name]
                said = str(error) if isinstance(error, FedMergeError) else f"{type(error).__name__}: {error}"
                self._failed(name, f"it was told nothing more: {said}")
