"""Noise from the operating system: normal, never the same twice, out of reach of a seed, and on a grid."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fedmerge.federation.privacy.noise import (
    from_the_seed,
    from_the_system,
    noised,
    shortened,
    step_of,
)

MANY = 400_000


@pytest.mark.parametrize("draw", [from_the_system, from_the_seed(3, "noise", 1)])
def test_it_is_standard_normal(draw):
    """Kolmogorov-Smirnov of 400,000: a distance of 0.0055 has probability 2 exp(-2 n d^2) = 6e-11."""
    drawn = draw(MANY).numpy()
    assert kstest(drawn, "norm").statistic < 0.0055
    assert abs(drawn.mean()) < 7 / math.sqrt(MANY)
    assert abs(drawn.var() - 1) < 7 * math.sqrt(2 / MANY)
    assert abs((drawn**4).mean() - 3) < 7 * math.sqrt(96 / MANY)  # the fourth power has variance 105 - 9


def test_its_numbers_hang_neither_on_each_other_nor_on_an_earlier_draw():
    """Correlations of 400,000 pairs lie within seven deviations of 0, also of squares and of neighbours."""
    one, other = from_the_system(MANY), from_the_system(MANY)
    pairs = [(one, other)] + [(one[lag:], one[:-lag]) for lag in (1, 2, MANY // 2)]
    for left, right in pairs:
        for power in (1, 2):
            both = torch.stack([left**power, right**power])
            assert abs(float(torch.corrcoef(both)[0, 1])) < 7 / math.sqrt(both.shape[1])


def test_no_seed_reaches_it():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - what a library, or Flower's own noise, would draw from
        random.seed(0)
        drawn.append(from_the_system(1000))
    assert not (drawn[0] == drawn[1]).any()
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    from_the_system(10)
    assert torch.equal(torch.rand(1), before)  # nor does it disturb what a seed gives


@pytest.mark.parametrize("count", [0, 1, 2, 3, 2**18, 2**18 + 1])
def test_there_are_as_many_as_were_asked_for(count):
    drawn = from_the_system(count)
    assert drawn.shape == (count,)
    assert drawn.dtype == torch.float64
    assert torch.isfinite(drawn).all()
    assert len(drawn.unique()) == count


@given(
    update=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20),
    clip=st.floats(1e-6, 1e6),
    noise=st.floats(1e-3, 1e3),
)
def test_no_update_is_longer_than_the_clip_when_it_is_summed(update, clip, noise):
    """Exactly, in rational numbers, of the integers themselves; inside the clip less than a step is lost."""
    step = step_of(noise * clip, clip)
    exact = [Fraction(value) for value in update]
    short, within = shortened({"w": torch.tensor(update, dtype=torch.float64)}, clip, step)
    whole = [Fraction(value) * Fraction(step) for value in short["w"].tolist()]
    assert sum(value**2 for value in whole) <= Fraction(clip) ** 2
    if within:
        assert all(abs(a - b) < Fraction(step) for a, b in zip(exact, whole, strict=True))
    assert all(a * b >= 0 for a, b in zip(exact, whole, strict=True))


@given(
    spoilt=st.sampled_from([math.nan, math.inf, -math.inf]),
    place=st.integers(0, 2),
    tensor=st.sampled_from(["a", "b"]),
)
def test_an_update_that_is_not_finite_counts_as_nothing(spoilt, place, tensor):
    update = {key: torch.ones(3, dtype=torch.float64) for key in ("a", "b")}
    update[tensor][place] = spoilt
    short, within = shortened(update, 1.0, 2.0**-20)
    assert not within
    assert not any(value.any() for value in short.values())


@given(deviation=st.floats(1e-9, 1e9), clip=st.floats(1e-9, 1e9))
def test_a_step_is_a_power_of_two_and_sums_fit_into_64_bits(deviation, clip):
    step = step_of(deviation, clip)
    assert math.frexp(step)[0] == 0.5
    assert step <= max(deviation * 2.0**-24, clip * 2.0**-40)
    assert 2**20 * clip / step < 2**62
    assert deviation / step < 2**62 / 20


def test_what_is_released_lies_on_the_grid_whatever_the_update_is():
    """Its low bits say nothing: all multiples of the step, with all remainders of 8 alike."""
    step = step_of(0.5, 1.0)
    for value in (0.0, 0.1, 1 / 3):
        short, _ = shortened({"w": torch.full((80_000,), value / 1000, dtype=torch.float64)}, 1.0, step)
        released = noised(short, 0.5, step, from_the_system)["w"] / step
        assert torch.equal(released, released.round())
        found = torch.bincount(released.to(torch.int64).remainder(8), minlength=8)
        assert float(((found - 10_000) ** 2 / 10_000).sum()) < 70  # chi-square of 7: 1e-12
