"""Counts of findings: what a greeting may say, what a policy hides, what an inspection tells."""

import pytest
import torch
from facts import refused
from pydantic import ValidationError

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.export import export
from fedmerge.federation.messages.replies import Greeting
from fedmerge.federation.policy.suppression import suppressed_findings, told_findings
from fedmerge.federation.privacy.masked import SCORED, decode_means, encode_means, scored
from fedmerge.models.zoo import ModelSpec, build
from fedmerge.tasks import MULTICLASS, MULTILABEL, ORDINAL, task_of


def test_counts_of_findings_need_not_add_up():
    said = {"name": "a", "num-examples": 10, "num-validation": 3, "class-counts": [9, 8]}
    assert Greeting.model_validate(said | {"task": "multilabel"}).class_counts == [9, 8]
    with refused("17", "training", "images", kind=ValidationError):
        Greeting.model_validate(said)
    with refused("11", "training", "images", kind=ValidationError):
        Greeting.model_validate(said | {"task": "multilabel", "class-counts": [11, 0]})


def test_a_small_count_is_hidden_and_so_is_its_complement():
    """Of 100 images 3 have the first finding, 98 the second: below 5 with, or without, is hidden."""
    assert suppressed_findings([3, 98, 40, 0, 100], 100, 5) == [0, 0, 40, 0, 100]
    assert told_findings([3, 98, 40, 0, 100], 100, 5) == ["<5", "hidden", 40, 0, 100]


def test_secure_scores_have_the_task_s_own():
    assert scored(MULTICLASS) == SCORED
    names = scored(ORDINAL)
    values = {"accuracy": 0.5, "balanced_accuracy": 0.4, "loss": 2.0, "kappa": -0.25}
    found = decode_means(encode_means(8, values), names)
    assert found["kappa"] == pytest.approx(-0.25)
    assert scored(MULTILABEL)[-1] == "auroc"


def test_a_network_is_built_for_its_task_and_written_as_before():
    spec = ModelSpec(name="small-cnn", in_channels=1, n_classes=5, image_size=8, options={"width": 2})
    assert "task" not in spec.model_dump()
    for task, outputs in {"multiclass": 5, "multilabel": 5, "ordinal": 4, "binary": 1}.items():
        network = build(spec.model_copy(update={"task": task}), 0).eval()
        assert network(torch.zeros(1, 1, 8, 8)).shape == (1, outputs)
        assert task_of(network).name == task
    assert (
        ModelSpec.model_validate(spec.model_copy(update={"task": "ordinal"}).model_dump()).task == "ordinal"
    )


def test_an_exported_cohort_keeps_its_task(tmp_path):
    sites = [{"name": "a"}, {"name": "u", "unseen": True}]
    spec = {"name": "c", "task": "multilabel", "source": "digit-pairs", "sites": sites}
    file = export(build_cohort(CohortSpec.model_validate(spec), 0), tmp_path / "out")
    assert "task: multilabel" in file.read_text()
    assert "task: multilabel" in (tmp_path / "out" / "a" / "a.yaml").read_text()
