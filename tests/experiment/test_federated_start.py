"""The model of the rounds as a reference, as a start and as an anchor: in a run and in a study, alike."""

from __future__ import annotations

import pytest
import torch
from facts import refused

from fedmerge import ModelPool, run
from fedmerge.experiment.configuration.reading import read_experiment
from fedmerge.workflows.bench.bench import bench

FUSION = ["federated", "mean"]
TESTTIME = [
    {"method": "bn-adapt", "start": "federated"},
    {"method": "entropy-adaptive", "label": "anchored", "predict": {"scale": 0.0, "anchor": "federated"}},
    {"method": "tent", "start": "federated", "learning_rate": 1e-9},
]


@pytest.fixture
def chosen(experiment):
    """The tiny experiment with one round, on one stream."""
    training = experiment["training"] | {"rounds": 1}
    evaluation = experiment["evaluation"] | {"streams": ["iid"], "shifts": []}
    return experiment | {
        "seeds": [0], "training": training, "fusion": FUSION, "testtime": TESTTIME, "evaluation": evaluation,
    }  # fmt: skip


def test_a_run_keeps_the_model_of_the_rounds_and_starts_from_it(chosen, tmp_path):
    result = run(chosen, out=tmp_path / "run")
    assert result.failures.empty
    rows = result.table.set_index("method")
    assert {"federated", "bn-adapt-from-federated", "anchored", "tent-from-federated"} <= set(rows.index)
    assert rows.loc["federated", "forward_passes"] == 1
    folder = tmp_path / "run" / "seed-0" / "federation"
    kept = ModelPool(folder / "start", create=False).state("start")
    (target,) = set(result.table["site"])
    fused = ModelPool(folder / target / "fused", create=False).state("federated")
    assert all(torch.equal(value, kept[key]) for key, value in fused.items())
    alike(result.table)


def alike(table):
    """Tent that hardly learns is BN-adapt from the same model."""
    scores = table.set_index("method")["accuracy"]
    assert scores["tent-from-federated"] == scores["bn-adapt-from-federated"]


def test_a_study_starts_from_the_rounds_of_its_own_task(chosen, tmp_path):
    base = chosen | {"cohort": "digits-scanners"}
    study = bench({"name": "small", "base": base, "references": []}, out=tmp_path / "study")
    assert set(study.table["status"]) == {"done"}, study.table["reason"].tolist()
    assert {"federated", "anchored"} <= set(study.table["method"])
    alike(study.table)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["training.rounds=0"], ("rounds: 0",)),
        (
            ["testtime=[{method: entropy-adaptive, start: federated}]"],
            ("individual models", "start: federated"),
        ),
        (
            ["testtime=[{method: tent, start: federated, tune: {option: steps, values: [1, 2]}}]"],
            ("federated", "tuned"),
        ),
        (
            ["fusion=[]", "testtime=[{method: tent, start: federated}]", "training.fine_tune=none"],
            ("tent", "fine_tune: none"),
        ),
    ],
)
def test_what_cannot_be_is_refused(chosen, changes, sentence):
    with refused(*sentence):
        read_experiment(chosen, changes)
