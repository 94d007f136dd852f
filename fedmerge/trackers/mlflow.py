"""MLflow: a run in a tracking store, on this machine by default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmerge.extras import extra
from fedmerge.trackers.contract import TRACKERS, flat, scalars

LONGEST = 500
"""The most letters of a parameter's value."""


@TRACKERS.method("mlflow", title="MLflow's tracking")
class MLflow:
    """Write a run's numbers as metrics of an MLflow run, and its configuration as parameters.

    uri: of the tracking store; by default files in ``mlruns`` beside the run's folder. experiment: its name.
    MLflow's own telemetry is switched off.
    """

    def __init__(self, *, uri: str | None = None, experiment: str = "fedmerge") -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        with extra("mlflow", "the tracker mlflow"):
            from mlflow.tracking import MlflowClient
        self._open = MlflowClient
        self._uri, self._experiment = uri, experiment

    def start(self, config: Mapping[str, Any], folder: Path) -> None:
        """Begin a run in the store, in an experiment that is made if need be."""
        if self._uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = self._uri or (folder.parent / "mlruns").resolve().as_uri()
        self._client: Any = self._open(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self._experiment)
        where = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._run = self._client.create_run(where, run_name=folder.name).info.run_id
        for name, value in flat(config).items():
            self._client.log_param(self._run, name, value[:LONGEST])

    def log(self, kind: str, row: Mapping[str, Any], step: int) -> None:
        """Log each number of the row as a metric."""
        for name, value in scalars(kind, row).items():
            self._client.log_metric(self._run, name, value, step=step)

    def finish(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")
