import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedmerge.analysis import fit_temperature, scores
from fedmerge.analysis.calibration import HIGHEST, LOWEST


@pytest.mark.parametrize(("gap", "right", "wrong"), [(6.0, 3, 1), (1.0, 9, 1), (2.0, 60, 40)])
def test_two_classes_by_hand(gap, right, wrong):
    """A class called with one gap is best given the share r that is right: gap / T = log r / (1 - r)."""
    called = torch.arange(right + wrong) % 2
    labels = torch.where(torch.arange(right + wrong) < right, called, 1 - called)
    logits = torch.nn.functional.one_hot(called, 2) * gap - gap / 2
    assert fit_temperature(logits.float(), labels) == pytest.approx(gap / math.log(right / wrong))


@pytest.fixture
def noisy():
    """200 images of 4 classes; the logits know the class, and are too large."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=rng)
    logits = torch.randn(200, 4, generator=rng) + torch.nn.functional.one_hot(labels, 4)
    return 3 * logits, labels


def test_no_other_temperature_has_less_loss(noisy):
    logits, labels = noisy

    def loss(t: float) -> float:
        return float(cross_entropy(logits.double() / t, labels))

    best = fit_temperature(logits, labels)
    assert LOWEST < best < HIGHEST
    assert loss(best) < min(loss(best * 1.001), loss(best / 1.001), loss(1.0))
    assert scores(logits / best, labels)["ece"] < scores(logits, labels)["ece"]


def test_it_moves_with_the_logits_as_it_must(noisy):
    """Logits k times as large take k times T; a constant added to an image's logits changes nothing."""
    logits, labels = noisy
    best = fit_temperature(logits, labels)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2 * best)
    assert fit_temperature(logits / best, labels) == pytest.approx(1.0, rel=1e-5)
    moved = logits.double() + torch.arange(200.0).double()[:, None]
    assert fit_temperature(moved, labels) == pytest.approx(best)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(best)
    assert fit_temperature(logits, labels) == best


def test_the_bounds_hold():
    """All right: the lower; all wrong, or nearly as often wrong as right by a large gap: the upper."""
    labels = torch.arange(6) % 3
    for size in (0.01, 1.0, 1e6):
        known = size * torch.nn.functional.one_hot(labels, 3).float()
        assert fit_temperature(known, labels) == LOWEST
        assert fit_temperature(-known, labels) == HIGHEST
    called = torch.zeros(5, dtype=torch.long)
    logits = 100.0 * torch.nn.functional.one_hot(called, 2)
    assert 100 / math.log(3 / 2) > HIGHEST
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 1, 1])) == HIGHEST


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(0, 3),
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.full((4, 3), 2.0),
        torch.tensor([[1.0, 2.0, math.nan], [1.0, 2.0, 3.0]]),
        torch.tensor([[1.0, 2.0, math.inf], [1.0, 2.0, 3.0]]),
    ],
)
def test_without_anything_to_fit_it_is_one(logits):
    assert fit_temperature(logits, torch.zeros(len(logits), dtype=torch.long)) == 1.0
