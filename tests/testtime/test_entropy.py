from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.testtime.entropy import coefficients, sample_entropies
from tests.facts import refused

ENTROPIES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6).map(torch.tensor)
TEMPERATURES = st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 50.0, math.inf])


def test_entropy_of_three_to_one() -> None:
    """Logits log 3, 0: p = 3/4, 1/4; H = 3/4 log(4/3) + 1/4 log 4 nats, divided by log 2."""
    expected = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    assert sample_entropies(torch.tensor([math.log(3), 0.0])).item() == pytest.approx(expected, rel=1e-6)


def test_uniform_is_one_and_certain_is_nought_whatever_the_scale() -> None:
    logits = torch.tensor([[5.0, 5.0, 5.0], [1e4, 0.0, 0.0], [3e38, -3e38, 0.0]])
    torch.testing.assert_close(sample_entropies(logits), torch.tensor([1.0, 0.0, 0.0]))


def test_half_precision_is_scored_in_float32() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    assert torch.equal(sample_entropies(logits.half()), sample_entropies(logits))


def test_leading_dimensions_are_kept() -> None:
    assert sample_entropies(torch.zeros(2, 5, 3)).shape == (2, 5)


def test_one_class_has_no_entropy() -> None:
    with refused("classes", 1, "two"):
        sample_entropies(torch.zeros(4, 1))


def test_two_coefficients_in_closed_form() -> None:
    """alpha_1 = 1 / (1 + exp(-(H_2 - H_1) / T)) = 1 / (1 + exp(-3)) for H = 0.2, 0.5 and T = 0.1."""
    alpha = coefficients(torch.tensor([0.2, 0.5]), 0.1)
    assert alpha[0].item() == pytest.approx(1 / (1 + math.exp(-3)), rel=1e-5)


def test_the_limits_of_the_temperature() -> None:
    entropies = torch.tensor([0.3, 0.1, 0.9, 0.1])
    assert coefficients(entropies, math.inf).tolist() == [0.25] * 4
    assert coefficients(entropies, 1e-300).tolist() == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, -math.inf])
def test_a_temperature_not_above_nought_is_a_sentence(temperature: float) -> None:
    with refused(0, "above"):
        coefficients(torch.tensor([0.1, 0.2]), temperature)


@given(entropies=ENTROPIES, temperature=TEMPERATURES)
def test_coefficients_are_on_the_simplex_and_in_the_order_of_confidence(
    entropies: torch.Tensor, temperature: float
) -> None:
    alpha = coefficients(entropies, temperature)
    assert alpha.sum().item() == pytest.approx(1, abs=1e-6)
    assert (alpha >= 0).all()
    order = entropies.argsort()
    assert (alpha[order].diff() <= 1e-7).all()


@given(entropies=ENTROPIES, temperature=TEMPERATURES, data=st.data())
def test_permuting_entropies_permutes_coefficients(
    entropies: torch.Tensor, temperature: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(entropies))))
    torch.testing.assert_close(
        coefficients(entropies[order], temperature), coefficients(entropies, temperature)[order]
    )
