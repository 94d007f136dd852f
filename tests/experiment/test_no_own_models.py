"""Experiments in which no hospital hands out a model: the federated one alone is deployed."""

import pytest
from facts import refused

from fedmerge import ModelPool, run
from fedmerge.analysis import scores
from fedmerge.data import build_cohort, concat
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.federation.plan.privacy import CentralPrivacy
from fedmerge.federation.privacy.accounting import epsilon
from fedmerge.models import predict
from fedmerge.workflows.bench.bench import bench


@pytest.fixture
def secret(experiment):
    """The tiny experiment with group norm, without what needs individual models."""
    model = {"name": "small-cnn", "options": {"width": 4, "norm": "group"}}
    training = experiment["training"] | {"fine_tune": "none"}
    return experiment | {"model": model, "training": training, "fusion": ["mean"], "testtime": ["tent"]}


@pytest.mark.parametrize(
    "federation", [{}, {"secure_aggregation": True}, {"privacy": {"clip": 1.0, "noise": 1.0}}]
)
def test_the_pool_holds_the_model_of_the_rounds_and_nothing_else(secret, cohort_spec, tmp_path, federation):
    result = run(secret | {"federation": federation}, out=tmp_path / "run")
    assert result.failures.empty
    pool = ModelPool(tmp_path / "run" / "seed-0" / "federation" / "pool")
    assert pool.names == ["federated"]
    assert set(result.table["method"]) == {"majority-class", "alone:federated", "pooled", "mean", "tent"}
    last = result.history.query("phase == 'train' and round == 2")
    trained = (last["accuracy"] * last["num-examples"]).sum() / last["num-examples"].sum()
    of_rounds = result.table.query("method == 'alone:federated'")["training_accuracy"]
    assert of_rounds.tolist() == pytest.approx([trained] * len(of_rounds))
    assert set(result.history["phase"]) <= {"train", "validate", "aggregate"}
    card, cohort = pool.card("federated"), build_cohort(cohort_spec, 0)
    val = concat([site.val for site in cohort.training])
    logits = predict(pool.model("federated", "cpu"), val.images, card.normalisation)
    assert card.metrics["validation"] == pytest.approx(scores(logits, val.labels)["accuracy"])
    if "privacy" in federation:
        spent = result.history.query("phase == 'aggregate' and round == 2")["epsilon"]
        assert set(spent) == {epsilon(CentralPrivacy(**federation["privacy"]), 2)}


def test_a_bench_deploys_the_model_of_the_rounds_too(secret, tmp_path, monkeypatch):
    """With secure aggregation in the rounds, which are a job of their own."""
    base = secret | {"cohort": "digits-scanners", "federation": {"secure_aggregation": True}}
    base["training"] = base["training"] | {"rounds": 1}
    base["evaluation"] = {"streams": ["iid"]}
    study = bench({"name": "small", "base": base, "references": ["alone"]}, out=tmp_path / "study")
    assert set(study.table["status"]) == {"done"}
    assert set(study.table["method"]) == {"majority-class", "alone:federated", "mean", "tent"}
    assert study.table["training_accuracy"].notna().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("fusion=[greedy]", ("greedy", "hospitals", "individual")),
        ("testtime=[entropy-adaptive]", ("entropy-adaptive", "hospitals", "individual")),
        ("training.rounds=0", ("fine_tune", "nothing", "0")),
    ],
)
def test_what_needs_the_hospitals_own_models_is_refused(secret, change, sentence):
    with refused(*sentence):
        read_experiment(secret, [change])


def test_what_only_the_cohort_and_network_show_is_refused_before_anything_is_written(experiment, tmp_path):
    training = experiment["training"] | {"fine_tune": "none"}
    private = {"federation": {"privacy": {"clip": 1.0, "noise": 1.0}}, "training": training}
    with refused("batch", "norm"):
        run(experiment | private | {"fusion": [], "testtime": []}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
