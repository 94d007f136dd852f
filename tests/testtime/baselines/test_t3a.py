from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import T3A
from tests.facts import refused


def test_prototypes_by_hand(linear, pixels) -> None:
    """Features are the pixels, the head's rows (1, 0) and (0, 1); z = (3, 1) joins class 0.

    mu_0 is (1, 0) + (3, 1) / sqrt(10) at length one, mu_1 stays (0, 1); logits are z . mu.
    """
    logits, _ = T3A([linear(1.0, 1.0)]).observe(pixels([3.0, 1.0]))
    x, y = 1 + 3 / math.sqrt(10), 1 / math.sqrt(10)
    expected = [(3 * x + y) / math.hypot(x, y), 1.0]
    assert logits[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_with_one_support_the_surest_is_kept(linear, pixels) -> None:
    """z = (3, 1) has gap 2, surer than its class's row with gap 1: mu_0 = z / |z|, so logit |z|.

    Then (0.6, 0) of gap 0.6 is not sure enough to replace it, but is scored by it.
    """
    node = T3A([linear(1.0, 1.0)], keep=1)
    assert node.observe(pixels([3.0, 1.0]))[0][0].tolist() == pytest.approx([math.sqrt(10), 1.0])
    logits, _ = node.observe(pixels([0.6, 0.0]))
    assert logits[0].tolist() == pytest.approx([0.6 * 3 / math.sqrt(10), 0.0], rel=1e-5)


def test_supports_stay_bounded_and_none_keeps_all(models: list[nn.Module], batch: Tensor) -> None:
    few, every = T3A(models, keep=2), T3A(models, keep=None)
    for _ in range(3):
        few.observe(batch)
        every.observe(batch)
    assert len(every.supports[0]) == 4 + 3 * 8
    assert few.supports[1].bincount().max() <= 2


def test_the_kept_are_those_of_lowest_entropy(models: list[nn.Module], batch: Tensor) -> None:
    few, every = T3A(models, keep=2), T3A(models, keep=None)
    few.observe(batch)
    every.observe(batch)
    _, labels, entropies = every.supports
    for label in labels.unique():
        lowest = entropies[labels == label].sort().values[:2]
        kept = few.supports[2][few.supports[1] == label].sort().values
        assert torch.equal(kept, lowest)


def test_the_model_is_left_as_it_is(models: list[nn.Module], batch: Tensor) -> None:
    node = T3A(models)
    before = {key: value.clone() for key, value in node.model.state_dict().items()}
    node.observe(batch)
    assert all(torch.equal(value, before[key]) for key, value in node.model.state_dict().items())


def test_unfit_heads_and_options_are_sentences(models: list[nn.Module], batch: Tensor) -> None:
    class Pooled(nn.Module):
        """A convolution for a head."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x)).flatten(1)

    with refused("layer", "head", "Sequential"):
        T3A([Pooled()]).observe(batch)
    with refused(0, "keep", "class"):
        T3A(models, keep=0)
