import math

import numpy as np
import pytest
import torch

from fedmerge.analysis import reliability, scores


def test_perfect_predictions():
    labels = torch.tensor([0, 1, 2, 2])
    result = scores(torch.eye(3)[labels] * 50, labels)
    assert (result.n, result.accuracy, result.balanced_accuracy, result.auroc) == (4, 1.0, 1.0, 1.0)
    assert result.ece == pytest.approx(0.0, abs=1e-6)
    assert result.brier == pytest.approx(0.0, abs=1e-6)


def test_accuracy_and_balanced_accuracy_by_hand():
    """Labels 0 0 0 1, all called 0: accuracy 3/4, recalls 1 and 0, so balanced 1/2."""
    logits = torch.tensor([[1.0, 0.0]] * 4)
    result = scores(logits, torch.tensor([0, 0, 0, 1]))
    assert result.accuracy == 0.75
    assert result.balanced_accuracy == 0.5


def test_a_class_without_images_is_left_out_of_auroc_and_recall():
    """Class 2 never occurs. Classes 0 and 1: probabilities rank 3 of 4 pairs right, AUROC 3/4 each."""
    z = torch.tensor([2.0, -1.0, 1.0, -2.0])
    logits = torch.stack([z, -z, torch.full((4,), -20.0)], 1)
    labels = torch.tensor([0, 0, 1, 1])  # scores of class 0: 2, -1 against 1, -2
    result = scores(logits, labels)
    assert result.auroc == pytest.approx(0.75)
    assert result.auroc_classes == 2
    assert result.balanced_accuracy == pytest.approx(0.5)


def test_one_class_alone_has_no_auroc():
    result = scores(torch.rand(5, 3), torch.zeros(5, dtype=torch.long))
    assert math.isnan(result.auroc)
    assert result.auroc_classes == 0


def test_ece_of_a_constant_confidence_is_the_gap():
    """Every image has confidence q = sigmoid(1) in one bin and half are right: ECE = |q - 1/2|."""
    logits = torch.tensor([[1.0, 0.0]] * 10)
    result = scores(logits, torch.tensor([0, 1] * 5))
    assert result.ece == pytest.approx(1 / (1 + math.exp(-1)) - 0.5, abs=1e-6)


def test_brier_by_hand():
    """p = (1/2, 1/4, 1/4). Label 0: (4 + 1 + 1) / 16; label 1: (4 + 9 + 1) / 16; mean 10/16."""
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2).log()
    assert scores(logits, torch.tensor([0, 1])).brier == pytest.approx(10 / 16)


def test_brier_of_sure_and_wrong_is_two():
    labels = torch.tensor([0, 1, 2])
    assert scores(torch.eye(3)[(labels + 1) % 3] * 100, labels).brier == pytest.approx(2.0)


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
    assert (gaps * frame["n"]).sum() / 200 == pytest.approx(scores(logits, labels).ece, abs=1e-6)
    assert frame["n"].sum() == 200
