"""The study of in-model merging, small: one data set, one network, one seed, an epoch of each."""

from __future__ import annotations

import json

import pytest

from fedmerge.data import load_source
from fedmerge.errors import FedMergeError
from fedmerge.workflows.bench.bench import bench

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = [
    "set.seeds=[0]",
    "set.training.epochs=1",
    "set.training.fine_tune.epochs=1",
    "set.evaluation.severities=[5]",
    "axes.model={small-cnn: {model: {name: small-cnn, options: {width: 8}}}}",
    "axes.training={plain: {}, inmerge: {training.fine_tune.inmerge: {tau: 0.3}},"
    " merging: {training.fine_tune.inmerge: {tau: -2, bias: follow}}}",
    "without=[]",
]


@pytest.fixture
def breast(monkeypatch):
    try:
        load_source("npz:breastmnist.npz")
    except FedMergeError:
        pytest.skip("needs breastmnist.npz under FEDMERGE_DATA")


@pytest.mark.usefixtures("breast")
def test_the_same_start_is_trained_once_and_the_ways_part_after_it(tmp_path):
    """Three ways stand on one start. Below -1 every pair is similar, so the third way surely merges."""
    one = "axes.cohort={breast: {cohort: {name: breast, source: 'medmnist:breastmnist', size: 28, "
    one += "sites: [{name: clinic, limit: 128}]}}}"
    study = bench("bench-inmerge", changes=[*SMALL, one], out=tmp_path / "study")
    assert set(study.table["status"]) == {"done"}
    methods = study.table[study.table["kind"] != "reference"]
    assert len(methods) == 3 * (1 + 2)  # ways x (as they are, noise, blur)
    jobs = [json.loads(path.read_text()) for path in (study.folder / "jobs").glob("*/job.json")]
    assert sum(job["config"]["kind"] == "rounds" for job in jobs) == 1
    merges = {
        job["label"].split(", ")[2]: row["merges"]
        for job in jobs
        for row in job["history"]
        if row["phase"] == "fine-tune"
    }
    scores = methods.set_index(["training", "shift"])["auroc"]
    assert merges["plain"] == 0
    if merges["inmerge"] == 0:  # then it is plain training, to the bit
        assert scores["inmerge"].equals(scores["plain"])
    assert merges["merging"] > 0
    assert not scores["merging"].equals(scores["plain"])
