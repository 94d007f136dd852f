"""Weights & Biases: a run in files on this machine, or at their service where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fedmerge.extras import extra
from fedmerge.trackers.contract import TRACKERS, scalars


@TRACKERS.method("wandb", title="Weights & Biases")
class WeightsAndBiases:
    """Write a run's numbers as the history of a Weights & Biases run.

    project: its name. mode: ``offline`` writes files into ``wandb`` beside the run's folder and sends nothing
    (``wandb sync`` would); ``online`` sends the configuration and all numbers to their service.
    """

    def __init__(self, *, project: str = "fedmerge", mode: Literal["offline", "online"] = "offline") -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        with extra("wandb", "the tracker wandb"):
            import wandb
        self._wandb: Any = wandb
        self._project, self._mode = project, mode

    def start(self, config: Mapping[str, Any], folder: Path) -> None:
        """Begin a run."""
        quiet = self._wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        self._run: Any = self._wandb.init(
            project=self._project,
            name=folder.name,
            config=dict(config),
            dir=str(folder.parent),
            mode=self._mode,
            settings=quiet,
        )

    def log(self, kind: str, row: Mapping[str, Any], step: int) -> None:
        """Log the numbers of the row, with the step as a number beside them."""
        self._run.log({f"{kind}/step": step, **scalars(kind, row)})

    def finish(self, finished: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if finished else 1)
