from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.training.schedule import learning_rates
from tests.facts import refused


def test_cosine_in_closed_form() -> None:
    """(1 + cos(pi s / 4)) / 2 for s = 0..3 is 1, (2 + sqrt 2)/4, 1/2, (2 - sqrt 2)/4."""
    root = math.sqrt(2)
    assert learning_rates("cosine", 2.0, 4) == pytest.approx([2, (2 + root) / 2, 1, (2 - root) / 2])


def test_one_cycle_warms_up_over_three_tenths_then_falls() -> None:
    """Of 20 steps, step 6 is the peak, step 3 half of the warm-up (1 + 1/25)/2, step 13 half of the fall."""
    rates = learning_rates("one-cycle", 1.0, 20)
    assert rates[0] == pytest.approx(0.04)
    assert rates[3] == pytest.approx(0.52)
    assert rates[6] == pytest.approx(1.0)
    assert rates[13] == pytest.approx((1 + 1e-4) / 2)
    assert rates[:7] == sorted(rates[:7])
    assert rates[6:] == sorted(rates[6:], reverse=True)


def test_constant_is_constant() -> None:
    assert learning_rates("constant", 0.3, 3, (0.2, 0.4)) == [0.3] * 3


@given(rounds=st.integers(1, 6), steps=st.integers(1, 9))
@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
def test_rounds_share_one_schedule(schedule: str, rounds: int, steps: int) -> None:
    """Calls over (r / R, (r + 1) / R) give what one call over (0, 1) gives."""
    parts = [
        rate
        for r in range(rounds)
        for rate in learning_rates(schedule, 0.1, steps, (r / rounds, (r + 1) / rounds))  # type: ignore[arg-type]
    ]
    assert parts == pytest.approx(learning_rates(schedule, 0.1, rounds * steps), abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("span", [(-0.1, 1), (0.5, 0.5), (0.6, 0.5), (0, 1.1)])
def test_a_span_that_is_no_part_is_a_sentence(span: tuple[float, float]) -> None:
    with refused(0, 1, "end"):
        learning_rates("cosine", 0.1, 3, span)
