"""Jobs that fail are rows with a reason; a full disk or a cluster that is not there ends a study."""

from pathlib import Path

import pytest
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.storage.disk import SPACE, DiskError
from fedmerge.workflows.bench.bench import bench


def test_a_job_that_fails_is_rows_with_a_reason(place, tmp_path, study, monkeypatch):
    """Training that diverges takes its methods with it; the other variant is complete; --retry heals."""
    monkeypatch.chdir(place)
    study["axes"]["training"]["fast"] = {"training.fine_tune.lr": 10.0, "training.fine_tune.momentum": 0.99}
    study["base"] = study["base"] | {"seeds": [0], "federation": {"quorum": 2}}
    original = STAGES["fine-tune"]

    def diverge(stage):
        if stage.setup.plan.fine_tune.lr == 10.0:
            raise FedMergeError("training diverged at site 'beta'.")
        return original(stage)

    monkeypatch.setitem(STAGES, "fine-tune", diverge)
    result = bench(study, out=tmp_path / "study")
    failed = result.table[result.table["status"] == "failed"]
    assert list(failed["method"]) == ["alone", "mean", "entropy-adaptive"]
    assert set(failed["training"]) == {"fast"}
    assert failed["reason"].str.contains("fast, seed 0: fine-tuning.*training diverged at site 'beta'").all()
    assert failed["accuracy"].isna().all()
    assert set(result.done["training"]) == {"slow", "fast"}  # pooled training does not stand on the hospitals
    monkeypatch.setitem(STAGES, "fine-tune", original)
    assert (bench(study, out=tmp_path / "study").table["status"] == "failed").sum() == 3
    assert (bench(study, out=tmp_path / "study", retry=True).table["status"] == "done").all()


def test_a_disk_that_fills_up_while_models_are_written_is_no_failed_job(place, tmp_path, monkeypatch):
    def no_room(*args):
        raise DiskError(Path("pool"), "No space left on device", SPACE)

    monkeypatch.setitem(STAGES, "fine-tune", no_room)
    with refused("disk", "full", "finished job"):
        bench(place / "study.yaml", out=tmp_path / "study")
    assert not list((tmp_path / "study" / "jobs").glob("*/failed"))


def test_a_cluster_that_nobody_answers_for_leaves_no_folder(place, tmp_path, study, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(place)
    with refused("Ray", "127.0.0.1:1"):
        bench(study, out=tmp_path / "study", backend={"kind": "ray", "address": "127.0.0.1:1"})
    assert not (tmp_path / "study").exists()
