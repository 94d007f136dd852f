"""Whole runs on the tiny federation: what is in the table and on disk, and that it repeats."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fedmerge import ModelPool, run
from fedmerge.analysis import scores
from fedmerge.experiment.folder.results import columns, summarise
from fedmerge.merging import merge
from fedmerge.models import average, predict, state_hash


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def result(shared, experiment):
    """One run, made once for this file."""
    if "result" not in _cache:
        _cache["result"] = run(experiment, out=shared / "first")
    return _cache["result"]


_cache: dict = {}


def test_one_row_per_method_stream_site_and_seed(result):
    methods = {
        "majority-class",
        "alone:alpha",
        "alone:beta",
        "alone:gamma",
        "pooled",
        "mean",
        "greedy",
        "ensemble-logits",
        "ensemble-features",
        "entropy-adaptive",
    }
    assert list(result.table.columns) == columns()
    assert set(result.table["method"]) == methods
    assert len(result.table) == len(methods) * 3
    assert not result.table.duplicated(["method", "site", "stream", "seed"]).any()
    assert (result.table["n"] == len(result.cohort["delta"].everything)).all()
    assert result.failures.empty


def test_files_hold_the_same_table(result):
    from_parquet = pd.read_parquet(result.folder / "results.parquet")
    pd.testing.assert_frame_equal(from_parquet, result.table, check_dtype=False)
    from_csv = pd.read_csv(result.folder / "results.csv")
    np.testing.assert_allclose(from_csv["accuracy"], result.table["accuracy"])
    assert (result.folder / "report.html").stat().st_size > 10_000


def test_the_table_s_numbers_are_those_of_the_models_on_disk(result):
    """Accuracy and AUROC of `mean` and `alone:beta`, computed again from the pool."""
    folder = result.folder / "seed-0" / "federation"
    site = result.cohort["delta"].everything
    table = result.table[result.table["stream"] == "iid"].set_index("method")
    pool = ModelPool(folder / "pool")
    for method, model in [
        ("alone:beta", pool.model("beta")),
        ("mean", ModelPool(folder / "delta" / "fused").model("mean")),
        ("pooled", ModelPool(folder / "delta" / "references").model("pooled")),
    ]:
        again = scores(predict(model, site.images, pool.card("beta").normalisation), site.labels)
        assert table.loc[method, "accuracy"] == again["accuracy"]
        assert table.loc[method, "auroc"] == again["auroc"]


def test_the_majority_class_is_that_of_the_training_images(result):
    """Pooled over the three that train; AUROC 1/2, balanced accuracy 1/3, no pass."""
    row = result.table[result.table["kind"] == "reference"].iloc[0]
    counts = sum(result.cohort[name].train.class_counts(3) for name in ("alpha", "beta", "gamma"))
    labels = result.cohort["delta"].everything.labels
    assert row["accuracy"] == pytest.approx(float((labels == int(counts.argmax())).double().mean()))
    assert row["balanced_accuracy"] == pytest.approx(1 / 3)
    assert row["auroc"] == 0.5
    assert (row["forward_passes"], row["backward_passes"]) == (0, 0)
    assert row["constant"]
    assert row["training_accuracy"] == pytest.approx(float(counts.max() / counts.sum()))


def test_training_accuracy_of_a_hospital_is_that_of_its_last_epoch(result):
    last = result.history[result.history["phase"] == "fine-tune"].set_index("site")["accuracy"]
    rows = result.table[result.table["stream"] == "iid"].set_index("method")["training_accuracy"]
    assert rows["alone:beta"] == last["beta"]
    assert rows["mean"] == pytest.approx(last.mean())


def test_the_pool_and_its_cards(result):
    folder = result.folder / "seed-0" / "federation"
    pool = ModelPool(folder / "pool")
    pool.verify()
    assert list(pool) == ["alpha", "beta", "gamma"]
    fused = ModelPool(folder / "delta" / "fused")
    assert list(fused) == ["mean", "greedy"]  # ensembles are not one model
    assert fused.card("mean").parents == tuple(pool.card(name).sha256 for name in pool)
    assert state_hash(fused.state("mean")) == state_hash(average(pool.state(name) for name in pool))
    merged = merge(pool, "mean").model.state_dict()
    assert state_hash(merged) == state_hash(fused.state("mean"))


def test_streams_are_saved_and_hold_every_image_once(result):
    orders = load_file(result.folder / "seed-0" / "federation" / "delta" / "streams.safetensors")
    assert set(orders) == {"iid", "dirichlet-0.5", "temporal"}
    n = len(result.cohort["delta"].everything)
    assert all(order.sort().values.equal(torch.arange(n)) for order in orders.values())


def test_coefficients_sum_to_one_for_every_batch(result):
    sums = result.coefficients.groupby(["stream", "batch"])[["encoder", "head"]].sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    batches = -(-len(result.cohort["delta"].everything) // 16)
    assert result.coefficients.groupby("stream")["batch"].nunique().eq(batches).all()
    adaptive = result.table[result.table["method"] == "entropy-adaptive"]
    assert (adaptive["forward_passes"] == 4).all()  # three sources and the merge


def test_the_same_command_gives_the_same_bits(result, experiment, shared):
    again = run(experiment, out=shared / "again")
    drop = ["seconds"]
    pd.testing.assert_frame_equal(again.table.drop(columns=drop), result.table.drop(columns=drop))
    pd.testing.assert_frame_equal(again.coefficients, result.coefficients)
    for name in ("pool/alpha", "delta/fused/greedy", "delta/references/pooled", "delta/streams"):
        first, second = (r.folder / "seed-0" / "federation" / f"{name}.safetensors" for r in (result, again))
        assert first.read_bytes() == second.read_bytes()


def test_greedy_s_log_is_kept(result):
    assert list(result.decisions["model"].sort_values()) == ["alpha", "beta", "gamma"]
    assert json.loads((result.folder / "decisions.json").read_text())[0]["accepted"] is True


def test_the_summary_averages_sites_then_seeds():
    """Seed 0: sites 0.2 and 0.4, mean 0.3; seed 1: 0.5 and 0.7, mean 0.6. Mean 0.45; t(0.975, 1) = 12.706,
    standard error |0.6 - 0.3| / 2 = 0.15."""
    rows = [
        {
            "method": "mean",
            "kind": "fusion",
            "seed": seed,
            "site": site,
            "stream": "iid",
            "accuracy": accuracy,
            "balanced_accuracy": accuracy,
            "auroc": 0.5,
            "ece": 0.1,
            "forward_passes": 1.0,
        }
        for seed, site, accuracy in [(0, "a", 0.2), (0, "b", 0.4), (1, "a", 0.5), (1, "b", 0.7)]
    ]
    summary = summarise(pd.DataFrame(rows))
    assert summary.loc["mean", "iid"] == pytest.approx(0.45)
    assert summary.loc["mean", "interval"] == pytest.approx(12.7062 * 0.15, rel=1e-4)


def test_a_robust_aggregator_runs_a_study_and_says_who_counted(experiment, tmp_path):
    rules = {"aggregate": {"method": "krum", "hostile": 0}}
    result = run(experiment | {"federation": rules}, out=tmp_path / "run")
    chosen = result.history[result.history["phase"] == "aggregate"]
    assert list(chosen.groupby("round")["share"].sum()) == [1.0, 1.0]
    assert set(chosen["share"]) == {0.0, 1.0}
    written = yaml.safe_load((result.folder / "config.yaml").read_text())["federation"]
    assert written["aggregate"] == {"method": "krum", "hostile": 0}
    assert "Traceback" not in (result.folder / "report.html").read_text()
