import math

import numpy as np
import pytest
import torch

from fedmerge.analysis import METRICS, rates, reliability, scores
from fedmerge.tasks import MULTILABEL, ORDINAL


def test_perfect_predictions():
    labels = torch.tensor([0, 1, 2, 2])
    result = scores(torch.eye(3)[labels] * 50, labels)
    assert (result["n"], result["accuracy"], result["balanced_accuracy"], result["auroc"]) == (
        4,
        1.0,
        1.0,
        1.0,
    )
    assert result["ece"] == pytest.approx(0.0, abs=1e-6)
    assert result["brier"] == pytest.approx(0.0, abs=1e-6)


def test_accuracy_and_balanced_accuracy_by_hand():
    """Labels 0 0 0 1, all called 0: accuracy 3/4, recalls 1 and 0, so balanced 1/2."""
    logits = torch.tensor([[1.0, 0.0]] * 4)
    result = scores(logits, torch.tensor([0, 0, 0, 1]))
    assert result["accuracy"] == 0.75
    assert result["balanced_accuracy"] == 0.5


def test_a_class_without_images_is_left_out_of_auroc_and_recall():
    """Class 2 never occurs. Classes 0 and 1: probabilities rank 3 of 4 pairs right, AUROC 3/4 each."""
    z = torch.tensor([2.0, -1.0, 1.0, -2.0])
    logits = torch.stack([z, -z, torch.full((4,), -20.0)], 1)
    labels = torch.tensor([0, 0, 1, 1])  # scores of class 0: 2, -1 against 1, -2
    result = scores(logits, labels)
    assert result["auroc"] == pytest.approx(0.75)
    assert result["auroc_classes"] == 2
    assert result["balanced_accuracy"] == pytest.approx(0.5)


def test_one_class_alone_has_no_auroc():
    result = scores(torch.rand(5, 3), torch.zeros(5, dtype=torch.long))
    assert math.isnan(result["auroc"])
    assert result["auroc_classes"] == 0


def test_ece_of_a_constant_confidence_is_the_gap():
    """Every image has confidence q = sigmoid(1) in one bin and half are right: ECE = |q - 1/2|."""
    logits = torch.tensor([[1.0, 0.0]] * 10)
    result = scores(logits, torch.tensor([0, 1] * 5))
    assert result["ece"] == pytest.approx(1 / (1 + math.exp(-1)) - 0.5, abs=1e-6)


def test_brier_by_hand():
    """p = (1/2, 1/4, 1/4). Label 0: (4 + 1 + 1) / 16; label 1: (4 + 9 + 1) / 16; mean 10/16."""
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2).log()
    assert scores(logits, torch.tensor([0, 1]))["brier"] == pytest.approx(10 / 16)


def test_brier_of_sure_and_wrong_is_two():
    labels = torch.tensor([0, 1, 2])
    assert scores(torch.eye(3)[(labels + 1) % 3] * 100, labels)["brier"] == pytest.approx(2.0)


def test_reliability_by_hand():
    """Top p is 0.7 twice (right, wrong), 0.95 once (right), and 1 once (right): of 4 bins two hold images."""
    top = torch.tensor([0.7, 0.7, 0.95, 1.0])
    frame = reliability(torch.stack([top, 1 - top], 1).log(), torch.tensor([0, 1, 0, 0]), bins=4)
    assert frame["bin"].tolist() == [0, 1, 2, 3]
    assert frame["low"].tolist() == [0, 0.25, 0.5, 0.75]
    assert frame["high"].tolist() == [0.25, 0.5, 0.75, 1]
    assert frame["n"].tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(frame["confidence"], [math.nan, math.nan, 0.7, 0.975], rtol=1e-6)
    np.testing.assert_allclose(frame["accuracy"], [math.nan, math.nan, 0.5, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_weighted_gap_of_the_reliability_bins(seed):
    rng = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(200, 5, generator=rng) * 2, torch.randint(0, 5, (200,), generator=rng)
    frame = reliability(logits, labels)
    gaps = (frame["accuracy"] - frame["confidence"]).abs().fillna(0)
    assert (gaps * frame["n"]).sum() / 200 == pytest.approx(scores(logits, labels)["ece"], abs=1e-6)
    assert frame["n"].sum() == 200


def test_the_table_s_calibration_error_is_the_reliability_curve_s_also_where_all_are_sure():
    """In float32 all four are sure by 1.0 exactly; p = 1 belongs to the last bin, so ECE = |1/2 - 1|."""
    logits = torch.tensor([[0.0, 20.0], [0.0, 25.0], [0.0, 200.0], [0.0, 2000.0]])
    frame, found = reliability(logits, torch.tensor([0, 1, 0, 1])), scores(logits, torch.tensor([0, 1, 0, 1]))
    assert frame["n"].tolist() == [0] * 14 + [4]
    assert found["ece"] == pytest.approx(0.5, abs=1e-9)
    assert 1 - frame["confidence"][14] == pytest.approx((math.exp(-20) + math.exp(-25)) / 4, rel=1e-6)


def test_brier_and_calibration_are_float64():
    """Sure by p = 1 - e, e = exp(-20) / (1 + exp(-20)), and right: ECE e, Brier 2 e^2. Float32 gives 0."""
    found = scores(torch.tensor([[20.0, 0.0]] * 3), torch.zeros(3, dtype=torch.long))
    e = math.exp(-20) / (1 + math.exp(-20))
    assert found["ece"] == pytest.approx(e, rel=1e-6)
    assert found["brier"] == pytest.approx(2 * e * e, rel=1e-6)


def by_numpy(logits, labels, bins=15):
    """ECE and Brier, image by image in numpy."""
    z = logits.double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top, right = p.max(1), p.argmax(1) == labels.numpy()
    inside = [(top >= b / bins) & ((top < (b + 1) / bins) | (b == bins - 1)) for b in range(bins)]
    ece = sum(i.sum() / len(z) * abs(right[i].mean() - top[i].mean()) for i in inside if i.any())
    return ece, ((p - np.eye(z.shape[1])[labels.numpy()]) ** 2).sum(1).mean()


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_ece_and_brier_are_their_definitions(scale):
    rng = torch.Generator().manual_seed(5)
    logits, labels = torch.randn(300, 6, generator=rng) * scale, torch.randint(0, 6, (300,), generator=rng)
    found = scores(logits, labels)
    assert (found["ece"], found["brier"]) == pytest.approx(by_numpy(logits, labels), rel=1e-9)


@pytest.mark.parametrize("bad", [[math.nan, 0.0, 0.0], [-math.inf] * 3, [0.0, math.inf, 0.0]])
def test_an_image_without_probabilities_leaves_no_score_of_them(bad):
    """Its class is known by arg-max alone, and not even that where a logit is NaN."""
    logits = torch.cat([torch.eye(3) * 4, torch.tensor([bad])])
    found = scores(logits, torch.tensor([0, 1, 2, 0]))
    assert all(math.isnan(value) for value in (found["auroc"], found["ece"], found["brier"]))
    assert found["auroc_classes"] == 3
    assert found["accuracy"] == {True: 1.0, False: 0.75}[bad == [-math.inf] * 3]


def test_a_logit_that_is_not_a_number_is_never_right():
    logits = torch.tensor([[math.nan, 0.0], [0.0, math.nan], [1.0, 0.0]])
    assert rates(logits, torch.tensor([0, 1, 0])) == pytest.approx((1 / 3, (1 / 2 + 0) / 2))


def test_equal_balanced_accuracies_are_equal_to_the_last_bit():
    """Recalls 1/3 and 1/3, or 1/6 and 1/2: both means are 1/3, in double precision."""
    labels = torch.tensor([0] * 6 + [1] * 6)
    even = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    uneven = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    found = [rates(torch.eye(2)[said], labels)[1] for said in (even, uneven)]
    assert found == pytest.approx([1 / 3, 1 / 3], rel=1e-15, abs=0)


def test_a_grade_that_is_not_known_gives_no_kappa():
    """Without the logit, the image would count as the lowest grade, which is right."""
    logits = torch.tensor([[math.nan, -1.0], [2.0, -2.0], [2.0, 2.0]])
    result = scores(logits, torch.tensor([0, 1, 2]), task=ORDINAL)
    assert math.isnan(result["kappa"])
    assert math.isnan(result["steps_off"])
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_a_finding_that_is_certain_ranks_first():
    """Of 4 images with the finding 2: ranks 1 (certain) and 3, so precisions 1 and 2/3, in steps of 1/2."""
    logits = torch.tensor([[math.inf], [1.0], [0.0], [-math.inf]])
    labels = torch.tensor([[1], [0], [1], [0]])
    result = scores(logits, labels, [METRICS["average_precision"]], task=MULTILABEL)
    assert result["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
