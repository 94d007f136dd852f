"""Whole runs on the tiny federation: what is in the table, that it repeats, and what failure leaves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from facts import refused
from safetensors.torch import load_file
from typer import Exit

from fedmerge import ModelPool, run
from fedmerge.analysis import scores
from fedmerge.cli.commands import end
from fedmerge.data import Arrays, SiteSpec, build_cohort
from fedmerge.errors import FedMergeError
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


def test_a_hospital_that_diverges_is_recorded_and_the_run_goes_on(experiment, tmp_path, monkeypatch):
    from fedmerge.federation.hospital import hospital
    from fedmerge.training import TrainingDiverged, fit

    def diverge_at_beta(*args, **kwargs):
        draws = kwargs["draws"]
        if (draws.site, draws.purpose) == ("beta", "round"):
            raise TrainingDiverged("training diverged at site 'beta': the loss is nan; lower training.lr.")
        return fit(*args, **kwargs)

    monkeypatch.setattr(hospital, "fit", diverge_at_beta)
    result = run(experiment, out=tmp_path / "run")
    assert set(result.failures["site"]) == {"beta"}
    assert list(result.failures["where"]) == ["round 1 (train)", "round 2 (train)"]
    assert "alone:beta" in set(result.table["method"])  # it fine-tuned the others' model
    report = (result.folder / "report.html").read_text()
    assert "lower training.lr" in report


def test_what_was_measured_before_an_error_is_saved(experiment, tmp_path, monkeypatch):
    from fedmerge.experiment.stages import seed as module

    def stop(*args):
        raise FedMergeError("the roof fell in.")

    monkeypatch.setitem(module.STAGES, "evaluate", stop)
    with refused("roof", "fell"):
        run(experiment, out=tmp_path / "run")
    assert len(ModelPool(tmp_path / "run/seed-0/federation/pool")) == 3
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 3 * (2 * 2 + 1)


def test_a_method_that_cannot_run_is_a_recorded_failure(experiment, tmp_path):
    fusion = ["mean", {"method": "mean", "label": "by-hand", "weights": [1.0, 2.0]}]
    result = run(experiment | {"fusion": fusion}, out=tmp_path / "run")
    assert list(result.failures["where"]) == ["by-hand"]
    assert "mean" in set(result.table["method"])
    assert result.failed == 1
    with pytest.raises(Exit) as ended:
        end(result)
    assert ended.value.exit_code == 1
    end(replace(result, failures=result.failures.iloc[:0]))


def test_a_hospital_that_was_left_out_of_a_round_is_no_failure_of_the_run(make_result):
    """Only methods give rows, so only theirs can be missing."""
    where = ["round 1 (train)", "fine-tune", "mean", "alone:north", "pooled", "entropy-adaptive", "elsewhere"]
    failures = pd.DataFrame({"seed": 0, "where": where, "site": "coast", "reason": "x"})
    result = make_result(failures=failures)
    assert result.failed == 4
    sites = tuple(replace(site, source="remote") for site in result.cohort.sites)
    elsewhere = replace(result, cohort=replace(result.cohort, sites=sites))
    assert elsewhere.failed == 3  # pooled training cannot be there


def test_every_seed_is_checked_before_the_first_is_run(experiment, tmp_path):
    """Three hospitals at one skewed source: with one seed each has enough of it, with another it has not."""
    sites = [SiteSpec(name=name, source=None, unseen=name == "c") for name in ("a", "b", "c")]
    skewed = with_sites(experiment, *sites, source=grey(90), label_skew=1.0)

    def fits(seed):
        try:
            return bool(build_cohort(skewed["cohort"], seed).sites)
        except FedMergeError:
            return False

    fine = next(seed for seed in range(99) if fits(seed))
    short = next(seed for seed in range(99) if not fits(seed))
    training = skewed["training"] | {"batch_size": 2}
    with refused("seed", short):
        run(skewed | {"seeds": [fine, short], "training": training}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def with_sites(experiment, *sites, **changes):
    spec = experiment["cohort"].model_copy(update={"sites": tuple(sites)} | changes)
    return experiment | {"cohort": spec}


def grey(n, size=8, labels=None):
    rng = np.random.default_rng(0)
    given = np.arange(n) % 3 if labels is None else labels
    return Arrays(rng.integers(0, 255, (n, size, size)).astype(np.uint8), given)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (grey(60, labels=np.zeros(60, int)), "class"),
        (grey(16), "training images, fewer than training.batch_size 12"),
        (grey(60, size=9), "size:"),
        (Arrays(np.zeros((60, 8, 8, 3), np.uint8), np.arange(60) % 3), "channels:"),
    ],
)
def test_bad_hospitals_are_sentences_before_anything_is_written(experiment, tmp_path, first, words):
    sites = [SiteSpec(name="alpha", source=first), *experiment["cohort"].sites[1:]]
    with refused("alpha") as caught:
        run(with_sites(experiment, *sites), out=tmp_path / "run")
    assert words in str(caught.value)
    assert not list(tmp_path.glob("run/seed-0/federation/pool/*"))


@pytest.mark.parametrize(
    ("federation", "words"),
    [
        ({"quorum": 4}, ("federation.quorum", "4", "3", "hospitals")),
        (
            {"aggregate": {"method": "krum", "hostile": 1}},
            ("krum", "5", "3"),
        ),
        ({"aggregate": "multi-krum"}, ("multi-krum", "hostile", "1")),
        ({"faults": [{"kind": "nan", "site": "alhpa"}]}, ("alhpa", "federation.faults", "alpha")),
        (
            {"faults": [{"kind": "nan", "rounds": [4]}]},
            ("4", "beyond", "3"),
        ),
    ],
)
def test_a_federation_too_small_for_its_rules_is_a_sentence(experiment, tmp_path, federation, words):
    with refused(*words):
        run(experiment | {"federation": federation}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fault_plan_is_in_the_failures_and_the_report_and_repeats(experiment, tmp_path):
    """Alpha crashes once in round 1 and is asked again; beta's labels are flipped in round 2; gamma's
    fine-tuning is not a number, so it has no model."""
    faults = [
        {"kind": "crash", "site": "alpha", "rounds": [1], "attempts": 1},
        {"kind": "label-flip", "site": "beta", "rounds": [2]},
        {"kind": "nan", "site": "gamma", "rounds": [3]},
    ]
    broken = experiment | {"federation": {"faults": faults, "on_failure": "retry"}}
    result = run(broken, out=tmp_path / "run")
    columns = ["where", "site", "attempt", "then", "kind", "injected"]
    assert result.failures[columns].to_numpy().tolist() == [
        ["round 1 (train)", "alpha", 1, "asked again", "error", "crash"],
        ["round 2 (train)", "beta", 1, "counted", "injected", "label-flip"],
        ["round 3 (fine-tune)", "gamma", 1, "asked again", "refused", "nan"],
        ["round 3 (fine-tune)", "gamma", 2, "left out", "refused", "nan"],
    ]
    assert ModelPool(result.folder / "seed-0/federation/pool").names == ["alpha", "beta"]
    page = (result.folder / "report.html").read_text()
    for words in (
        "1 thing failed and was left out; 2 failed attempts were made again; "
        "1 answer spoilt by fault injection was used",
        "attempt 1, asked again; by fault injection: crash",
        "with what fault injection did to it (label-flip)",
    ):
        assert words in page
    again = run(broken, out=tmp_path / "again")
    pd.testing.assert_frame_equal(again.failures, result.failures)
    pd.testing.assert_series_equal(again.table["accuracy"], result.table["accuracy"])


def test_a_robust_aggregator_runs_a_study_and_says_who_counted(experiment, tmp_path):
    rules = {"aggregate": {"method": "krum", "hostile": 0}}
    result = run(experiment | {"federation": rules}, out=tmp_path / "run")
    chosen = result.history[result.history["phase"] == "aggregate"]
    assert list(chosen.groupby("round")["share"].sum()) == [1.0, 1.0]
    assert set(chosen["share"]) == {0.0, 1.0}
    written = yaml.safe_load((result.folder / "config.yaml").read_text())["federation"]
    assert written["aggregate"] == {"method": "krum", "hostile": 0}
    assert "Traceback" not in (result.folder / "report.html").read_text()


def test_batch_size_one_with_batch_norm_is_a_sentence(experiment, tmp_path):
    training = experiment["training"] | {"batch_size": 1}
    with refused("batch", "norm"):
        run(experiment | {"training": training}, out=tmp_path / "run")


def test_folders_are_never_overwritten(experiment, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with refused(tmp_path / "run", "empty"):
        run(experiment, out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "run", "written"):
        run(experiment, out=tmp_path / "file" / "run")


def test_an_unknown_device_is_a_sentence(experiment, tmp_path):
    with refused("gpu", "device"):
        run(experiment, device="gpu", out=tmp_path / "run")
