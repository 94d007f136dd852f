"""Jobs whose fusion needs images or the common start, and hospitals that begin on their own."""

import json

import pytest

from fedmerge import ModelPool
from fedmerge.data import build_cohort, read_cohort
from fedmerge.data.fusion import share
from fedmerge.merging import merge
from fedmerge.models.state import state_hash
from fedmerge.study import candidates
from fedmerge.study.bench.engine import bench


@pytest.fixture
def calls(needy, monkeypatch):
    """Every call of ``merge`` by method: what it was given; all merge by the mean."""
    made = {}

    def spy(parents, method, **arguments):
        made.setdefault(method, []).append(arguments)
        return merge(parents, "mean")

    monkeypatch.setattr(candidates, "merge", spy)
    return made


@pytest.fixture
def done(study, place, calls, monkeypatch, tmp_path):
    """Do the small study with one variant, one seed and other methods; returns its folder and table."""
    monkeypatch.chdir(place)

    def go(**base):
        del study["axes"], study["compare"], study["reference"]
        study["references"] = ["alone"]
        study["keep_models"] = base.pop("keep_models", True)
        study["base"] |= {"seeds": [0], "testtime": [], "deployment": {"streams": ["iid"]}} | base
        return bench(study, out=tmp_path / "study")

    return go


def jobs(study, kind):
    found = [json.loads(path.read_text()) for path in sorted(study.folder.glob("jobs/*/job.json"))]
    return [job for job in found if job["config"]["kind"] == kind]


def test_a_fusion_gets_the_state_after_the_rounds_and_the_shares(done, calls, place):
    """30 + 9 + 9 images a site: 5 asked for of 9 in each of two hospitals, then 20, of which there are 9."""
    study = done(fusion=["needs-start", "needs-labels"], fusion_data={"from": "union", "images": 10})
    (rounds,) = study.folder.glob("jobs/*/start")
    assert state_hash(calls["needs-start"][0]["start"]) == state_hash(ModelPool(rounds).state("start"))
    cohort = build_cohort(read_cohort(place / "corners.yaml"), 0)
    labels = [y for name in ("alpha", "beta") for y in share(cohort[name], 5, "val", 0).labels.tolist()]
    assert calls["needs-labels"][0]["labels"].tolist() == labels
    assert len(calls["needs-labels"][0]["data"]) == 10
    logs = [job["decisions"] for job in jobs(study, "deploy") if job["decisions"]]
    assert [[(row["model"], row["images"]) for row in log] for log in logs] == [[("alpha", 5), ("beta", 5)]]


def test_the_start_is_kept_until_the_last_fusion_that_needs_it(done, calls):
    study = done(fusion=["mean", "needs-start"], keep_models=False)
    assert set(study.table["status"]) == {"done"}
    assert len(calls["needs-start"]) == 1
    assert not list(study.folder.glob("jobs/*/start/*.safetensors"))


def test_hospitals_that_begin_on_their_own_end_apart(done):
    """Without rounds: both start at the initialisation of the seed, or each at its own."""
    training = {"rounds": 0, "start": "independent", "epochs": 1, "lr": 1e-5, "batch_size": 10}
    study = done(fusion=["mean"], training=training)
    (pool,) = (ModelPool(path) for path in study.folder.glob("jobs/*/pool"))
    first, second = pool.state("alpha"), pool.state("beta")
    key = next(key for key in first if key.endswith("weight") and first[key].ndim == 4)
    assert (first[key] - second[key]).abs().mean() > 0.1 * first[key].abs().mean()  # the step is 1e-5
    (tuned,) = jobs(study, "fine-tune")
    assert tuned["config"]["experiment"]["training"]["start"] == "independent"


def test_a_fused_network_is_corrected_afterwards(done, calls):
    done(fusion=[{"method": "mean", "label": "repaired", "after": "repair"}], fusion_data={"from": "union"})
    assert calls["mean"][0]["after"] == "repair"
