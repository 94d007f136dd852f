import math

import pytest
import torch

from fedmerge.analysis import scores


def test_perfect_predictions():
    labels = torch.tensor([0, 1, 2, 2])
    result = scores(torch.eye(3)[labels] * 50, labels)
    assert (result.n, result.accuracy, result.balanced_accuracy, result.auroc) == (4, 1.0, 1.0, 1.0)
    assert result.ece == pytest.approx(0.0, abs=1e-6)


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
