"""AUROC, kappa, F1, average precision and the marks of constant classifiers, against small tables by hand."""

import math

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from fedmerge.analysis import answers, fit_temperature, scores
from fedmerge.analysis.metrics import METRICS, rates
from fedmerge.experiment.stages.majority import Frequencies
from fedmerge.tasks import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from fedmerge.tasks.scores import aurocs, macro_auroc, mean_where_defined, quadratic_kappa

Z = torch.tensor([[2.0, -1.0, 0.0], [1.0, 3.0, 0.0], [0.0, -2.0, 0.0], [-1.0, 1.0, 0.0]])
Y = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.uint8)


def test_macro_auroc_by_hand():
    """Finding 0: positives 2 and 0 against 1 and -1: 3 of 4 pairs. Finding 1: 3 of 3. Finding 2: none."""
    first, second, third = aurocs(Z, Y)
    assert (first, second) == (0.75, 1.0)
    assert math.isnan(third)
    assert macro_auroc(Z, Y) == 0.875
    found = scores(Z, Y, task=MULTILABEL)
    assert found["auroc"] == 0.875
    assert found["auroc_classes"] == 2


def test_shares_of_findings_by_hand():
    """Said: [1,0,0],[1,1,0],[0,0,0],[0,1,0]: right in 3 of 12 wrong: row sums 2, 1, 1, 1, so 5 of 12."""
    said = Z > 0
    right = int((said == Y.bool()).sum())
    accuracy, balanced = rates(Z, Y, MULTILABEL)
    assert accuracy == pytest.approx(right / 12)
    # finding 0: recall 1/2 and 1/2; finding 1: 1 of 1 and 2 of 3; finding 2: 0 of 4, no absence
    assert balanced == pytest.approx((0.5 + (1 + 2 / 3) / 2 + 0) / 3)
    found = scores(Z, Y, task=MULTILABEL)
    # F1 of finding 0: TP 1, FP 1, FN 1: 1/2; of finding 1: TP 1, FP 1: 2/3
    assert found["f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # average precision: finding 0 ranks + - + -: (1 + 2/3) / 2; finding 1 ranks its positive first
    assert found["average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_brier_and_calibration_of_findings_are_those_of_their_choices():
    """One image, p = 3/4 and 1/2, both there: sum over both states 2 (1/4)^2 and 2 (1/2)^2; their mean."""
    z, y = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1, 1]])
    found = scores(z, y, task=MULTILABEL)
    assert found["brier"] == pytest.approx((2 / 16 + 2 / 4) / 2)


def test_quadratic_kappa_of_a_table():
    """(grade, given): 00 01 11 12 22 20. O: off by one twice (1 each), by two once (4), so 6.

    Right and given grades are both 2, 2, 2 of 6, so E of each cell is 2/3. Of all w the sum is
    4 + 2 * 4 = 12, so sum w E = 8: 1 - 6 / 8.
    """
    labels, given = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    assert quadratic_kappa(given, labels, 3) == pytest.approx(0.25)
    assert quadratic_kappa(given, labels, 3) == pytest.approx(
        cohen_kappa_score(labels, given, weights="quadratic")
    )
    assert quadratic_kappa(labels, labels, 3) == 1


@pytest.mark.parametrize("given", [[0, 0, 0], [0, 1, 2], [2, 2, 2]])
def test_kappa_of_one_grade_is_not_defined_whatever_is_predicted(given):
    """With all images of one grade, what is seen is what chance gives: 1 - 1, or 1 - 0 / 0."""
    assert math.isnan(quadratic_kappa(torch.tensor(given), torch.zeros(3).long(), 3))
    z = torch.tensor([[-9.0, -9.0], [9.0, -9.0], [9.0, 9.0]])[torch.tensor(given)]
    assert math.isnan(scores(z, torch.zeros(3).long(), task=ORDINAL)["kappa"])
    assert math.isnan(quadratic_kappa(torch.tensor([]).long(), torch.tensor([]).long(), 3))


def test_kappa_of_a_constant_prediction_is_that_of_chance():
    assert quadratic_kappa(torch.ones(4).long(), torch.tensor([0, 1, 2, 2]), 3) == 0


@pytest.mark.parametrize("present", [0, 1])
def test_findings_of_one_kind_alone_have_no_score_that_ranks_or_finds(present):
    found = scores(Z, torch.full((4, 3), present), task=MULTILABEL)
    assert all(math.isnan(found[name]) for name in ("auroc", "average_precision", "f1"))
    assert found["auroc_classes"] == 0
    assert found["accuracy"] == pytest.approx(float(((Z > 0) == present).double().mean()))


def test_a_mean_of_scores_leaves_out_what_is_not_defined():
    assert mean_where_defined([0.25, math.nan, 0.75]) == 0.5
    assert math.isnan(mean_where_defined([math.nan]))


def test_grades_have_kappa_and_steps_off():
    """Logits that are sure of grade 1, of 0 and of 2, where 1, 1 and 0 are right: 0, 1 and 2 steps off."""
    z = torch.tensor([[9.0, -9.0], [-9.0, 0.0], [9.0, 9.0]])
    found = scores(z, torch.tensor([1, 1, 0]), task=ORDINAL)
    assert found["steps_off"] == 1
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert "f1" not in found


def test_a_binary_head_scores_as_two_outputs_do():
    """Logits (0, z) of two classes are the distribution of one output z."""
    z, y = torch.tensor([[1.0], [-0.5], [2.0], [0.2]]), torch.tensor([1, 0, 0, 1])
    both = torch.cat([torch.zeros_like(z), z], 1)
    one, two = scores(z, y, task=BINARY), scores(both, y)
    for name in ("accuracy", "balanced_accuracy", "auroc", "ece", "brier"):
        assert one[name] == pytest.approx(two[name], rel=1e-9), name
    assert fit_temperature(z, y, BINARY) == pytest.approx(fit_temperature(both, y), rel=1e-6)
    assert BINARY.score(z, y) == pytest.approx(0.5)


def test_multiclass_has_the_columns_it_had():
    found = list(scores(torch.eye(3), torch.arange(3)))
    assert found == ["n", "accuracy", "balanced_accuracy", "auroc", "auroc_classes", "ece", "brier"]
    assert {metric.name for metric in METRICS if MULTICLASS.name in metric.tasks} >= {"accuracy", "auroc"}


def test_prevalences_are_the_constant_predictor_of_findings():
    """Of 8 images 2 and 6 have the findings: log-odds log(1/3) and log 3; right on 3/4 of the decisions."""
    model = Frequencies(MULTILABEL.tally([2, 6], 8), MULTILABEL)
    assert model(torch.zeros(3, 1)).shape == (3, 2)
    torch.testing.assert_close(model(torch.zeros(1, 1)), torch.tensor([[-math.log(3), math.log(3)]]))
    assert model.right == 0.75


def test_the_constant_predictor_of_grades_answers_the_median():
    """Of 10 images 4, 2, 3 and 1 have grades 0 to 3: 6 of 10 are above 0, so the median is 1; 2 are right."""
    model = Frequencies([4, 2, 3, 1], ORDINAL)
    logits = model(torch.zeros(1, 1))
    torch.testing.assert_close(ORDINAL.p(logits), torch.tensor([[0.4, 0.2, 0.3, 0.1]]))
    assert ORDINAL.predicted(logits).tolist() == [1]
    assert model.right == pytest.approx(0.2)


def test_what_predicts_prevalences_is_constant_and_what_ranks_is_not():
    labels = torch.tensor([[1, 0]] * 3 + [[0, 1]] * 17)
    prevalences = torch.tensor([[-1.7, 1.7]]).expand(20, 2)
    assert answers(prevalences, labels, MULTILABEL).constant
    never = torch.where(labels == 1, -2.0, -4.0)  # below one half everywhere, but well ranked
    said = answers(never, labels, MULTILABEL)
    assert said.largest_predicted == 1
    assert not said.constant
    # sqrt(2 (N + 1) / (12 P (N - P))) / 2 of two findings with P = 3 and 17 of 20
    assert said.chance_error == pytest.approx(math.sqrt(2 * 21 / (12 * 3 * 17)) / 2)
