"""Trackers against the files that they write on this machine, and the names and numbers they are given."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from facts import refused

from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.configuration.entries import TrackerConfig
from fedmerge.experiment.stages.evaluation import Measured
from fedmerge.experiment.stages.record import Record
from fedmerge.experiment.stages.tracking import tracked
from fedmerge.trackers import TRACKERS, flat, scalars

HISTORY = {"seed": 0, "federation": "all", "round": 2, "phase": "train", "site": "north", "loss": 0.5,
           "accuracy": math.nan, "note": "none"}  # fmt: skip
RESULT = {"seed": 0, "site": "coast", "method": "alone:north", "kind": "alone", "stream": "iid", "n": 20,
          "shift": "none", "severity": 0, "accuracy": 0.75}  # fmt: skip
CONFIG: dict[str, Any] = {"name": "tiny", "training": {"lr": 0.1, "augment": []}}


def tell(name: str, folder: Path, **options: Any) -> None:
    tracker = TRACKERS[name].call(**options)
    tracker.start(CONFIG, folder)
    tracker.log("history", HISTORY, 2)
    tracker.log("results", RESULT, 1)
    tracker.finish(True)


def test_scalars_are_the_finite_numbers_of_a_row_under_names_of_where_it_is():
    assert scalars("history", HISTORY) == {"history/0/all/north/train/loss": 0.5}
    assert scalars("results", RESULT) == {"results/0/coast/iid/alone-north/accuracy": 0.75}


def test_a_configuration_becomes_dotted_names():
    assert flat(CONFIG) == {"name": "tiny", "training.lr": "0.1", "training.augment": "[]"}


def test_tensorboard_reads_what_was_told(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="TensorBoard is not installed: pip install 'fedmerge[tensorboard]'"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell("tensorboard", tmp_path / "runs" / "tiny-001")
    events = EventAccumulator(str(tmp_path / "runs" / "tensorboard" / "tiny-001"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {*scalars("history", HISTORY), *scalars("results", RESULT)}
    (loss,) = events.Scalars("history/0/all/north/train/loss")
    assert (loss.step, loss.value) == (2, 0.5)


def test_mlflow_reads_what_was_told(tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'fedmerge[mlflow]'")
    from mlflow.tracking import MlflowClient

    tell("mlflow", tmp_path / "runs" / "tiny-001", experiment="digits")
    client = MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (run.info.status, run.data.params["training.lr"]) == ("FINISHED", "0.1")
    (loss,) = client.get_metric_history(run.info.run_id, "history/0/all/north/train/loss")
    assert (loss.step, loss.value) == (2, 0.5)


def test_wandb_writes_files_here_and_sends_nothing(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'fedmerge[wandb]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    tell("wandb", tmp_path / "runs" / "tiny-001")
    assert list((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))


class Noting:
    told: list[Any]

    def __init__(self, *, breaks: str = "never") -> None:
        self.breaks = breaks

    def start(self, config: dict[str, Any], folder: Path) -> None:
        Noting.told = [("start", folder.name)]

    def log(self, kind: str, row: dict[str, Any], step: int) -> None:
        if kind == self.breaks:
            raise RuntimeError("full")
        Noting.told.append((kind, step))

    def finish(self, finished: bool) -> None:
        Noting.told.append(("finish", finished))


@pytest.fixture
def noting(monkeypatch):
    monkeypatch.setattr(TRACKERS, "_methods", dict(TRACKERS._methods))
    TRACKERS.method("noting", title="Noting")(Noting)


def measured() -> Measured:
    return Measured({key: value for key, value in RESULT.items() if key not in ("seed", "site")})


def test_a_run_tells_new_rows_and_how_it_ended(noting, tmp_path):
    record = Record({})
    with tracked([TrackerConfig.model_validate("noting")], CONFIG, tmp_path / "run", record):
        record.result(0, "coast", measured())
        record.extend({"results": [RESULT]})  # rows of a checkpoint were told when they were made
        record.result(0, "coast", measured())
    assert Noting.told == [("start", "run"), ("results", 1), ("results", 2), ("finish", True)]


def test_a_tracker_that_fails_is_told_nothing_more_and_the_run_goes_on(noting, tmp_path):
    record = Record({})
    entry = TrackerConfig.model_validate({"tracker": "noting", "breaks": "results"})
    with tracked([entry], CONFIG, tmp_path / "run", record):
        for _ in range(2):
            record.result(0, "coast", measured())
    assert Noting.told == [("start", "run")]
    (failure,) = record.failures
    assert (failure["where"], "full" in failure["reason"]) == ("tracker noting", True)


def test_an_experiment_names_its_trackers_with_their_options(experiment):
    given = experiment | {"trackers": ["tensorboard", {"tracker": "mlflow", "experiment": "digits"}]}
    found = Experiment.model_validate(given)
    assert found.model_dump()["trackers"] == (
        {"tracker": "tensorboard"},
        {"tracker": "mlflow", "experiment": "digits"},
    )
    assert "trackers" not in Experiment.model_validate(experiment).model_dump()
    with refused("tensorbord", "tensorboard", "unknown", kind=ValueError):
        Experiment.model_validate(experiment | {"trackers": ["tensorbord"]})


def test_a_tracker_whose_package_is_missing_says_which_extra_has_it(monkeypatch):
    for name in ("mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused("fedmerge[mlflow]", "pip", "install"):
        TRACKERS["mlflow"].call()
