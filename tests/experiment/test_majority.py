"""The majority-class reference: whose images it counts, what it answers, what it never looks at."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from facts import refused

from fedmerge import run
from fedmerge.analysis import answers, scores
from fedmerge.data import Arrays, SiteSpec
from fedmerge.experiment.stages.majority import Frequencies


def test_it_answers_with_the_frequencies_of_the_classes():
    """3, 5 and 2 of 10: probabilities .3, .5, .2 for every image, class 1; Brier on one image of each class:
    (.49 + .25 + .04) + (.09 + .25 + .04) + (.09 + .25 + .64), a third of it."""
    model, labels = Frequencies([3, 5, 2]), torch.tensor([0, 1, 2])
    logits = model(torch.zeros(3, 1, 8, 8))
    torch.testing.assert_close(logits.softmax(1), torch.tensor([[0.3, 0.5, 0.2]]).expand(3, 3))
    found = scores(logits, labels)
    assert (found["accuracy"], found["balanced_accuracy"], found["auroc"]) == (
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        0.5,
    )
    assert found["brier"] == pytest.approx((0.78 + 0.38 + 0.98) / 3)
    assert answers(logits, labels).constant


def test_of_equals_it_is_the_first_and_a_class_without_images_is_finite():
    logits = Frequencies([0, 4, 4])(torch.zeros(2, 1, 8, 8))
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == [1, 1]


def site(name, counts, unseen=False):
    """So many images of each class, mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), counts))
    images = np.random.default_rng(1).integers(0, 255, (len(labels), 8, 8)).astype(np.uint8)
    return SiteSpec(name=name, source=Arrays(images, labels), unseen=unseen)


def of_run(experiment, tmp_path, sites, **changes):
    spec = experiment["cohort"].model_copy(update={"sites": tuple(sites)})
    small = {"fusion": ["mean"], "testtime": [], "evaluation": {"streams": ["iid"]}}
    table = run(experiment | small | {"cohort": spec} | changes, out=tmp_path / "run").table
    return table[table["kind"] == "reference"].set_index("site")


def test_the_target_s_own_classes_are_not_looked_at(experiment, tmp_path):
    """Two hospitals have mostly class 0, the unseen one mostly class 2, 40 of 60: 10 of 60 are right."""
    sites = [
        site("alpha", (40, 10, 10)),
        site("beta", (40, 10, 10)),
        site("delta", (10, 10, 40), unseen=True),
    ]
    row = of_run(experiment, tmp_path, sites).loc["delta"]
    assert row["accuracy"] == pytest.approx(10 / 60)
    assert row["largest_class"] == pytest.approx(40 / 60)


def test_left_out_in_turn_each_gets_the_majority_of_the_others(experiment, tmp_path):
    """At alpha it is class 1 of beta and delta (50 of 60 each), of which alpha has 10 of 60; and so on."""
    sites = [site("alpha", (40, 10, 10)), site("beta", (5, 50, 5)), site("delta", (5, 50, 5))]
    found = of_run(experiment, tmp_path, sites, unseen="each")
    assert found.loc["alpha", "accuracy"] == pytest.approx(10 / 60)
    assert found.loc["beta", "accuracy"] == pytest.approx(50 / 60)


@pytest.mark.parametrize("label", ["majority-class", "pooled"])
def test_no_method_may_be_called_like_a_reference(experiment, tmp_path, label):
    with refused(label, "reference", "called"):
        run(experiment | {"fusion": [{"method": "mean", "label": label}]}, out=tmp_path / "run")


def test_an_ensemble_of_one_hospital_is_still_an_ensemble(experiment, tmp_path):
    """It is not asked for a validation score as if its weights were those of one network."""
    sites = [site("alpha", (20, 20, 20)), site("delta", (20, 20, 20), unseen=True)]
    spec = experiment["cohort"].model_copy(update={"sites": tuple(sites)})
    small = {"fusion": ["ensemble-logits"], "testtime": [], "evaluation": {"streams": ["iid"]}}
    result = run(experiment | small | {"cohort": spec}, out=tmp_path / "run")
    assert result.failures.empty
    row = result.table[result.table["method"] == "ensemble-logits"].iloc[0]
    assert not math.isnan(row["validation"])
