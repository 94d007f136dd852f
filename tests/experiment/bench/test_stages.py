"""Jobs whose fusion needs images or the common start, and hospitals that begin on their own."""

import json
import math

import pytest
from scipy.stats import norm

from fedmerge import ModelPool
from fedmerge.data import build_cohort, read_cohort
from fedmerge.data.cohort.fusion import share
from fedmerge.experiment.stages import predictors as candidates
from fedmerge.federation import MergeStrategy
from fedmerge.federation.privacy.accounting import epsilon_of
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.merging import merge
from fedmerge.models.state import state_hash
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.study import open_study
from fedmerge.workflows.run import run


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
        study["base"] |= {"seeds": [0], "testtime": [], "evaluation": {"streams": ["iid"]}} | base
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
    logs = [job["decisions"] for job in jobs(study, "evaluate") if job["decisions"]]
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


def test_a_job_tunes_starts_from_pooled_training_and_knows_the_oracle(study, place, monkeypatch, tmp_path):
    """Three hospitals that train, each deployed at; the job's log says what was chosen and how it scored."""
    monkeypatch.chdir(place)
    del study["axes"], study["compare"], study["reference"]
    study["references"] = ["alone", "oracle"]
    tuned = {
        "method": "entropy-adaptive",
        "tune": {"option": "coefficients.temperature", "values": [0.1, float("inf")]},
    }
    study["base"] |= {
        "seeds": [0], "unseen": "none", "fusion": [], "evaluation": {"streams": ["iid"]},
        "testtime": [tuned, {"method": "tent", "start": "pooled"}],
        "training": {"rounds": 0, "epochs": 1, "lr": 0.05, "batch_size": 10},
    }  # fmt: skip
    found = bench(study, out=tmp_path / "study")
    table = found.table
    assert set(table["status"]) == {"done"}, table["reason"].tolist()
    assert set(table.loc[table["kind"] == "test-time", "method"]) == {
        "entropy-adaptive-tuned",
        "tent-from-pooled",
    }
    logs = [job["decisions"] for job in jobs(found, "evaluate") if job["decisions"]]
    assert len(logs) == 3
    for log in logs:
        assert [(row["value"], row["held_out"]) for row in log] == [
            (value, name) for value in ("0.1", ".inf") for name in ("alpha", "beta", "delta")
        ]
        assert len({row["value"] for row in log if row["chosen"]}) == 1
    for _, rows in table.groupby("site"):
        alone = rows[rows["kind"] == "alone"]
        (oracle,) = rows[rows["kind"] == "oracle"].to_dict("records")
        assert (oracle["method"], oracle["accuracy"]) == ("oracle-best-source", alone["accuracy"].max())
        assert oracle["validation"] != oracle["validation"]  # NaN: nothing is selected by it


def test_what_a_hospital_keeps_to_itself_reaches_its_fine_tuning(done, study, tmp_path):
    """Rounds and fine-tuning are two jobs, so two processes, and end where one run ends."""
    training = {"rounds": 2, "epochs": 1, "lr": 0.05, "batch_size": 10}
    result = done(fusion=["mean"], training=training, federation={"personal": "norms"})
    pools = [ModelPool(path) for path in result.folder.glob("jobs/*/pool")]
    (pool,) = [pool for pool in pools if pool.names]
    alone = run(study["base"] | {"name": "alone", "cohort": "corners.yaml"}, out=tmp_path / "alone")
    (expected,) = (ModelPool(path) for path in alone.folder.glob("seed-0/*/pool"))
    assert pool.names == expected.names == ["alpha", "beta"]
    for name in pool.names:
        assert pool.card(name).sha256 == expected.card(name).sha256


@pytest.mark.parametrize("kind", ["central", "local"])
def test_private_rounds_of_a_job_count_as_in_a_run(done, kind):
    """A job keeps no journal of its rounds: each of its three releases counts all the same, each seed anew.

    Gaussian mechanisms one after the other are one, with noise z / sqrt(rounds), of which delta is known for
    any epsilon: Phi(1 / 2z - epsilon z) - exp(epsilon) Phi(-1 / 2z - epsilon z) (Balle and Wang, theorem 8).
    """
    rounds, noise, delta = 3, 2.0, 1e-3
    study = done(
        fusion=[],
        seeds=[0, 1],
        model={"name": "small-cnn", "options": {"width": 4, "norm": "group"}},
        training={"rounds": rounds, "epochs": 1, "batch_size": 10, "fine_tune": "none"},
        federation={"privacy": {"kind": kind, "clip": 1.0, "noise": noise, "delta": delta}},
    )
    assert set(study.table["status"]) == {"done"}
    found = jobs(study, "rounds")
    assert len(found) == 2
    for job in found:
        rows = [row for row in job["history"] if "releases" in row]
        assert sorted((row["site"], row["releases"]) for row in rows) == [
            (site, count) for site in ("alpha", "beta") for count in range(1, rounds + 1)
        ]
        for row in rows:
            z = noise / math.sqrt(row["releases"]) / (2 if kind == "local" else 1)
            at = row["epsilon"]
            spent = norm.cdf(0.5 / z - at * z) - math.exp(at) * norm.cdf(-0.5 / z - at * z)
            assert spent == pytest.approx(delta, rel=1e-6)
            assert row["delta"] == delta


def test_a_killed_study_goes_on_at_the_last_round(study, place, tmp_path, monkeypatch):
    """Three rounds; the process ends while the second is written, then it goes on with the second."""
    monkeypatch.chdir(place)
    del study["axes"], study["compare"], study["reference"]
    study["base"] |= {"seeds": [0], "testtime": [], "evaluation": {"streams": ["iid"]}}
    study["base"]["training"] = study["base"]["training"] | {"rounds": 3}
    whole = bench(study, out=tmp_path / "whole")
    written, trained = [], []
    write, train = RoundJournal.write, MergeStrategy.configure_train

    def end_in_the_second(self, *args, **kwargs):
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    def note(self, server_round, *args, **kwargs):
        trained.append(server_round)
        return train(self, server_round, *args, **kwargs)

    monkeypatch.setattr(RoundJournal, "write", end_in_the_second)
    monkeypatch.setattr(MergeStrategy, "configure_train", note)
    with pytest.raises(KeyboardInterrupt):
        bench(study, out=tmp_path / "study")
    monkeypatch.setattr(RoundJournal, "write", write)
    first, trained[:] = list(trained), []
    resumed = bench(study, out=tmp_path / "study")
    assert (first, trained[:2]) == ([1, 2], [2, 3])
    hashes = [
        {
            (path.name, name): ModelPool(path).card(name).sha256
            for path in found.folder.glob("jobs/*/pool")
            for name in ModelPool(path).names
        }
        for found in (whole, resumed)
    ]
    assert hashes[0] == hashes[1] != {}
    (rounds,) = jobs(resumed, "rounds")
    assert sorted({row["round"] for row in rounds["history"]}) == [1, 2, 3]
    assert not list(resumed.folder.glob("jobs/*/journal"))


def test_the_study_s_report_has_what_all_variants_spent_together(study, place, monkeypatch, tmp_path):
    """One round each, with noise 2 and noise 1: 1 / 4 + 1 / 1 of a release of noise 1."""
    monkeypatch.chdir(place)
    private = {
        f"noise {noise}": {"federation.privacy": {"clip": 1.0, "noise": noise}} for noise in (2.0, 1.0)
    }
    study |= {"axes": {"privacy": private}, "compare": "privacy", "reference": "noise 2.0"}
    study["base"] |= {"seeds": [0], "fusion": [], "testtime": [], "evaluation": {"streams": ["iid"]}}
    study["base"]["model"] = {"name": "small-cnn", "options": {"width": 4, "norm": "group"}}
    study["base"]["training"] |= {"fine_tune": "none"}
    done = bench(study, out=tmp_path / "study")
    assert f"epsilon = {epsilon_of([1.25**-0.5], 1e-5):.3g}" in done.provenance["privacy"]
    assert "2 releases of 2 federations" in open_study(tmp_path / "study").provenance["privacy"]
