"""Counts of findings: what a greeting may say, what a policy hides, what an inspection tells."""

import math

import pytest
import torch
from facts import refused
from pydantic import ValidationError

from fedmerge.data import CohortSpec, build_cohort
from fedmerge.data.export import export
from fedmerge.federation.messages.replies import Evaluated, Greeting
from fedmerge.federation.policy.suppression import suppressed_findings, told_findings
from fedmerge.federation.privacy.masked import (
    SCORED,
    decode_means,
    decode_scores,
    encode_means,
    encode_scores,
    scored,
    words_of_scores,
)
from fedmerge.federation.server.remote_evaluation import RemoteEvaluation
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


def test_a_score_that_a_hospital_does_not_define_has_no_part_in_a_sum_under_masks():
    """8 images with AUROC 0.9, 24 with 0.5, 100 without: (8 * 0.9 + 24 * 0.5) / 32; accuracy is of all."""
    names = scored(MULTILABEL)
    told = [(8, 0.9, 1.0), (24, 0.5, 0.0), (100, math.nan, 0.5)]
    words = [
        encode_scores(n, {"accuracy": a, "balanced_accuracy": a, "loss": 1.0, "auroc": z}, MULTILABEL)
        for n, z, a in told
    ]
    assert {len(each) for each in words} == {words_of_scores(names, MULTILABEL)}
    found = decode_scores(sum(words[1:], words[0]), names, MULTILABEL)
    assert set(found) == {"num-examples", *names}
    assert found["auroc"] == pytest.approx(0.6)
    assert found["accuracy"] == pytest.approx((8 + 50) / 132)
    assert math.isnan(decode_scores(words[2], names, MULTILABEL)["auroc"])
    assert words_of_scores(scored(MULTICLASS), MULTICLASS) == 2 * (1 + len(SCORED))


def test_a_reply_may_say_that_a_score_is_not_defined_and_of_no_other_number():
    said = {"num-examples": 5, "loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5}
    for name in ("auroc", "kappa"):
        assert math.isnan(getattr(Evaluated.model_validate(said | {name: math.nan}), name))
        with pytest.raises(ValidationError):
            Evaluated.model_validate(said | {name: math.inf})
        with pytest.raises(ValidationError):
            Evaluated.model_validate(said | {name: 1.5})
    with pytest.raises(ValidationError):
        Evaluated.model_validate(said | {"accuracy": math.nan})


def test_a_hospital_without_a_kind_of_image_has_no_vote_where_models_are_scored(monkeypatch):
    """The model's score is that of the others; where nobody has one, that is a sentence."""
    evaluation = RemoteEvaluation(None, None)
    told = [{"num-examples": 10, "auroc": 0.5}, {"num-examples": 30, "auroc": 0.9}]
    undefined = {"num-examples": 60, "auroc": math.nan}
    monkeypatch.setattr(evaluation, "_evaluate", lambda *args, **options: [*told, undefined])
    assert evaluation.score({}, metric="auroc") == pytest.approx(0.8)
    assert evaluation.numbers({})["auroc"] == pytest.approx(0.8)
    monkeypatch.setattr(evaluation, "_evaluate", lambda *args, **options: [undefined])
    with refused("auroc", "not defined"):
        evaluation.score({}, metric="auroc")
    assert math.isnan(evaluation.numbers({})["auroc"])


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
