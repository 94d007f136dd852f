"""TensorBoard: event files on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmerge.extras import extra
from fedmerge.trackers.contract import TRACKERS, flat, scalars


@TRACKERS.method("tensorboard", title="TensorBoard's event files")
class TensorBoard:
    """Write a run's numbers as scalars into event files.

    folder: where to; by default ``tensorboard/RUN`` beside the run's folder, so that ``tensorboard --logdir
    runs/tensorboard`` shows all runs.
    """

    def __init__(self, *, folder: str | None = None) -> None:
        with extra("tensorboard", "the tracker tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._open = SummaryWriter
        self._folder = folder

    def start(self, config: Mapping[str, Any], folder: Path) -> None:
        """Open an event file, and write the configuration as text."""
        place = self._folder or str(folder.parent / "tensorboard" / folder.name)
        self._writer: Any = self._open(place)
        lines = [f"{name}: {value}" for name, value in flat(config).items()]
        self._writer.add_text("config", "\n\n".join(lines))

    def log(self, kind: str, row: Mapping[str, Any], step: int) -> None:
        """Write each number of the row as a scalar."""
        for name, value in scalars(kind, row).items():
            self._writer.add_scalar(name, value, step)

    def finish(self, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()
