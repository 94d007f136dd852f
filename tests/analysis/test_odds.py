from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedmerge.analysis import scores
from fedmerge.analysis.odds import log_odds
from fedmerge.tasks.scores import area


def plainly(logits: Tensor) -> np.ndarray:
    """z_c - log sum_{k != c} exp(z_k) in float64, class by class with the largest of the others taken off."""
    z = logits.double().numpy()
    found = np.empty_like(z)
    for c in range(z.shape[1]):
        others = np.delete(z, c, axis=1)
        top = others.max(1)
        found[:, c] = z[:, c] - top - np.log(np.exp(others - top[:, None]).sum(1))
    return found


def macro(odds: np.ndarray, labels: Tensor) -> float:
    """scikit-learn's AUROC, class against rest, averaged over the classes that can be scored."""
    truth = [(labels == c).numpy() for c in range(odds.shape[1])]
    return float(np.mean([roc_auc_score(y, odds[:, c]) for c, y in enumerate(truth) if 0 < y.sum() < len(y)]))


def drawn(seed: int, n: int, classes: int, scale: float) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=draws) * scale, torch.randint(0, classes, (n,), generator=draws)


def test_sure_images_are_ranked_by_how_sure() -> None:
    """z_1 - z_0 is 20, 25, 18, 30 for labels 0, 1, 0, 1: every positive above every negative. In float32
    25 and 30 are both p = 1, and so are 20 and 18."""
    logits = torch.tensor([[0.0, 20.0], [0.0, 25.0], [0.0, 18.0], [0.0, 30.0]])
    assert scores(logits, torch.tensor([0, 1, 0, 1]))["auroc"] == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_auroc_is_scikit_learns_on_log_odds(classes: int, scale: float) -> None:
    for seed in range(3):
        logits, labels = drawn(seed, 200, classes, scale)
        assert scores(logits, labels)["auroc"] == pytest.approx(macro(plainly(logits), labels), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_width_are_ranked_as_they_are(dtype: torch.dtype) -> None:
    """Half-precision logits have many ties among themselves; they stay ties, and no others come."""
    logits, labels = drawn(1, 400, 3, 20.0)
    logits = logits.to(dtype)
    assert scores(logits, labels)["auroc"] == pytest.approx(macro(plainly(logits), labels), abs=1e-12)


def test_float64_logits_are_not_rounded() -> None:
    """They differ by 1e-12, which float32 does not hold."""
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert scores(logits, torch.tensor([0, 1]))["auroc"] == 1.0


@pytest.mark.parametrize("scale", [1.0, 40.0, 1e4])
@pytest.mark.parametrize("classes", [2, 5])
def test_log_odds_are_their_definition(classes: int, scale: float) -> None:
    logits, _ = drawn(2, 300, classes, scale)
    np.testing.assert_allclose(log_odds(logits).numpy(), plainly(logits), rtol=1e-13, atol=1e-14)


def test_two_classes_have_the_difference_of_their_logits_exactly() -> None:
    logits, _ = drawn(3, 300, 2, 50.0)
    z = logits.double()
    assert torch.equal(log_odds(logits), torch.stack([z[:, 0] - z[:, 1], z[:, 1] - z[:, 0]], 1))


def test_probabilities_of_known_log_odds() -> None:
    """p = (1/2, 1/4, 1/4): log-odds 0, log 1/3, log 1/3. A class alone is certain."""
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert log_odds(logits).tolist() == [pytest.approx([0.0, -math.log(3), -math.log(3)], abs=1e-7)]
    assert log_odds(torch.tensor([[3.0]])).tolist() == [[math.inf]]


def test_equal_answers_tie() -> None:
    """Up to a constant and to the order of the other classes, over more images than a vector register has."""
    one = torch.tensor([0.125, 7.25, -2.75, 5.5])  # sums with a small whole number are exact
    order = torch.tensor([[0, 1, 2, 3], [0, 3, 1, 2], [0, 2, 3, 1]])
    logits = torch.stack([one[order[i % 3]] + i % 5 for i in range(37)])
    assert log_odds(logits)[:, 0].unique().numel() == 1
    assert scores(one.expand(37, 4), torch.arange(37) % 4)["auroc"] == 0.5


def test_a_class_that_is_ruled_out_is_last() -> None:
    """-inf is probability 0: class 2's log-odds are -inf, a tie among such images; a sole class has +inf."""
    logits = torch.tensor([[0.0, 1.0, -math.inf], [2.0, 0.0, 1.0], [-math.inf, -math.inf, 4.0]])
    found = log_odds(logits)
    assert found[0].tolist() == pytest.approx([-1.0, 1.0, -math.inf])
    assert found[2].tolist() == [-math.inf, -math.inf, math.inf]
    assert scores(logits, torch.tensor([1, 0, 2]))["auroc"] == 1.0


@pytest.mark.parametrize("row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_what_has_no_probabilities_has_no_log_odds(row: list[float]) -> None:
    assert log_odds(torch.tensor([row, [0.0, 1.0]]))[0].isnan().all()


values = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30)


@given(rows=values.filter(lambda rows: len({positive for _, positive in rows}) == 2))
def test_the_area_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    high, low = ([value for value, sign in rows if sign is which] for which in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in high for b in low]
    ranked, positive = (np.array(column) for column in zip(*rows, strict=True))
    assert area(ranked.astype(float), positive) == pytest.approx(sum(pairs) / len(pairs))
