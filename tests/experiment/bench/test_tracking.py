"""What a study tells its trackers: every row of its tables once, every failure, the end of every job."""

from __future__ import annotations

import copy
from typing import ClassVar

import pandas as pd
import pytest
import yaml
from facts import refused

import fedmerge as fm
from fedmerge.trackers import TRACKERS, scalars
from fedmerge.workflows.bench.variants import read_bench

SHORT = {
    "seeds": [0],
    "fusion": ["mean"],
    "testtime": [],
    "evaluation": {"batch_size": 16, "streams": ["iid"]},
}
KEYS = ["training", "seed", "site", "method", "stream", "accuracy"]


class Noting:
    """Keep all that is told; raise at ``breaks``."""

    told: ClassVar[list[tuple[str, dict, int]]] = []

    def __init__(self, *, breaks: str = "") -> None:
        self.breaks = breaks

    def start(self, config, folder):
        Noting.told = [("start", config, 0)]

    def log(self, kind, row, step):
        if kind == self.breaks:
            raise RuntimeError("no space")
        Noting.told.append((kind, dict(row), step))

    def finish(self, finished):
        Noting.told.append(("finish", {"finished": finished}, 0))


@pytest.fixture
def noting(monkeypatch):
    monkeypatch.setattr(TRACKERS, "_methods", dict(TRACKERS._methods))
    TRACKERS.method("noting", title="Noting")(Noting)


@pytest.fixture
def short(study, place):
    """The study with one seed and two methods, the cohort by its whole path."""
    short = copy.deepcopy(study)
    short["base"] |= SHORT | {"cohort": str(place / "corners.yaml")}
    return short


def rows(kind):
    return pd.DataFrame([row for each, row, _ in Noting.told if each == kind])


def steps(kind):
    return [step for each, _, step in Noting.told if each == kind]


def test_all_rows_are_told_once_and_the_end_of_every_job(noting, short, tmp_path):
    found = fm.bench(short | {"trackers": ["noting"]}, out=tmp_path / "study")
    assert (Noting.told[0][1]["name"], Noting.told[-1][1]) == ("tiny", {"finished": True})
    told = rows("results")
    pd.testing.assert_frame_equal(
        told[KEYS].sort_values(KEYS, ignore_index=True),
        found.table[KEYS].sort_values(KEYS, ignore_index=True),
    )
    assert set(told["variant"]) == {"training slow", "training fast"}
    assert steps("results") == [*range(1, len(told) + 1)]
    # the rounds and the majority class are the same for both levels
    jobs = rows("jobs")
    assert jobs["phase"].value_counts().to_dict() == {"rounds": 1, "pooled": 2, "fine-tune": 2, "evaluate": 7}
    assert len(jobs) == found.provenance["jobs"]
    assert (jobs["seconds"] > 0).all()
    history = rows("history")
    rounds = history[(history["phase"] == "train") & history["site"].isin(["alpha", "beta"])]
    assert rounds["round"].tolist() == steps("history")[: len(rounds)]
    assert set(history["federation"]) == {"federation"}
    names = [name for kind, row, _ in Noting.told[1:-1] for name in scalars(kind, row) if kind == "results"]
    assert len(names) == len(set(names))


def test_what_is_done_is_not_told_again_and_trackers_are_no_change_of_a_study(noting, short, tmp_path):
    fm.bench(short, out=tmp_path / "study")
    longer = short | {"set": {"seeds": [0, 1]}, "trackers": ["noting"]}
    Noting.told = []
    fm.bench(short | {"trackers": ["noting"]}, out=tmp_path / "study")
    assert Noting.told == []
    found = fm.bench(longer, out=tmp_path / "study", extend=True)
    assert set(rows("results")["seed"]) == {1}
    assert len(rows("results")) == (found.table["seed"] == 1).sum()


def test_a_failed_job_is_told_with_its_reason(noting, short, tmp_path, monkeypatch):
    monkeypatch.setattr("fedmerge.experiment.stages.evaluate.fuse", lambda *given: 1 / 0)
    fm.bench(short | {"trackers": ["noting"]}, out=tmp_path / "study")
    failures, jobs = rows("failures"), rows("jobs")
    assert len(failures) == 2
    assert failures["reason"].str.contains("ZeroDivisionError").all()
    assert set(failures["variant"]) == {"training slow", "training fast"}
    assert jobs[jobs["status"] == "failed"]["label"].tolist() == failures["where"].tolist()


def test_a_tracker_that_fails_is_told_nothing_more_and_the_study_says_so(noting, short, tmp_path):
    entry = {"tracker": "noting", "breaks": "jobs"}
    found = fm.bench(short | {"trackers": [entry]}, out=tmp_path / "study")
    assert set(found.table["status"]) == {"done"}
    assert Noting.told[-1][0] != "finish"
    (remark,) = [each for each in found.remarks if "noting" in each]
    assert "no space" in remark


def test_trackers_in_an_experiment_of_a_study_are_refused_with_their_place(short):
    short["base"]["trackers"] = ["tensorboard"]
    with refused("trackers", "'base'"):
        read_bench(short)


def test_tensorboard_and_mlflow_read_what_a_study_told(short, tmp_path):
    pytest.importorskip("tensorboard", reason="not installed: pip install 'fedmerge[tensorboard]'")
    pytest.importorskip("mlflow", reason="not installed: pip install 'fedmerge[mlflow]'")
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short["trackers"] = ["tensorboard", {"tracker": "mlflow", "experiment": "digits"}]
    found = fm.bench(short, out=tmp_path / "runs" / "tiny")
    row = found.table.query("training == 'fast' and method == 'mean'").iloc[0]
    name = "results/training fast/0/delta/iid/mean/accuracy"
    events = EventAccumulator(str(tmp_path / "runs" / "tensorboard" / "tiny"))
    events.Reload()
    assert [each.value for each in events.Scalars(name)] == [pytest.approx(row["accuracy"])]
    jobs = [tag for tag in events.Tags()["scalars"] if tag.startswith("jobs/")]
    assert sum(len(events.Scalars(tag)) for tag in jobs) == found.provenance["jobs"]
    client = MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert [each.value for each in client.get_metric_history(run.info.run_id, name)] == [row["accuracy"]]
    assert run.data.params["axes.training.fast.training.fine_tune.lr"] == "0.05"


def test_a_study_keeps_its_trackers_in_its_file(noting, short, tmp_path):
    config, _ = read_bench(short | {"trackers": [{"tracker": "noting", "breaks": "x"}]})
    written = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert written["trackers"] == [{"tracker": "noting", "breaks": "x"}]
    assert "trackers" not in read_bench(short)[0].model_dump(mode="json")
