from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmerge.analysis import crossed_bootstrap
from fedmerge.analysis.intervals import tail

RNG = np.random.default_rng


@pytest.mark.parametrize("factor", ["seeds", "sites"])
def test_one_factor_alone_is_the_percentile_bootstrap(factor):
    """Against scipy at the confidence level that has the expanded tail probability, 1 - 2 p.

    With 10 000 draws each and p about 0.014, the order statistics differ by about 0.05 standard deviations.
    """
    values = RNG(1).normal(3, 2, size=12)
    ours = crossed_bootstrap(values.reshape((-1, 1, 1) if factor == "seeds" else (1, -1, 1)))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=RNG(2),
        confidence_level=1 - 2 * tail(0.95, 12),
    ).confidence_interval  # fmt: skip
    error = values.std() / math.sqrt(12)
    assert ours.low[0] == pytest.approx(theirs.low, abs=0.15 * error)
    assert ours.high[0] == pytest.approx(theirs.high, abs=0.15 * error)


def test_the_expanded_tail():
    """t of 97.5 % with 4 degrees of freedom is 2.776; times sqrt(5 / 4) it is 3.104, whose tail is 0.00095.

    Many levels: the tail of Student's t is the normal's, 0.025.
    """
    assert tail(0.95, 5) == pytest.approx(stats.norm.cdf(-2.776445 * math.sqrt(1.25)))
    assert tail(0.95, 100_000) == pytest.approx(0.025, abs=1e-5)


def test_five_seeds_cover_the_mean_about_as_often_as_they_should():
    """600 simulations in 600 columns. The range of 5 covers 1 - 2 / 2^5 = 94 %; the interval is near it."""
    bounds = crossed_bootstrap(RNG(0).normal(size=(5, 1, 600)), draws=4000)
    assert 0.90 < ((bounds.low <= 0) & (bounds.high >= 0)).mean() < 0.99


@pytest.mark.parametrize(("seeds", "sites"), [(5, 5), (3, 10)])
def test_seeds_and_sites_that_both_matter_are_covered(seeds, sites):
    """Effects of seed, site and cell, all of variance 1: an interval over seeds alone misses the sites."""
    rng = RNG(3)
    values = rng.normal(size=(seeds, 1, 400)) + rng.normal(size=(1, sites, 400))
    values = values + rng.normal(size=(seeds, sites, 400))
    bounds = crossed_bootstrap(values, draws=2000)
    assert ((bounds.low <= 0) & (bounds.high >= 0)).mean() > 0.92


def test_the_variance_counts_the_residual_three_times():
    """Owen 2007: for a table of pure noise the bootstrap variance is nearly 3 sigma^2 / (S H).

    Exactly, for noise of sample variance s^2, each factor adds about 1 / (S H) and their product another.
    The interval at tail probability p is then 2 z sqrt(3 / (S H)) s wide; here S = H = 40.
    """
    values = RNG(4).normal(size=(40, 40, 50))
    bounds = crossed_bootstrap(values, draws=4000)
    z = -stats.norm.ppf(tail(0.95, 40))
    width = (bounds.high - bounds.low).mean()
    assert width == pytest.approx(2 * z * math.sqrt(3 / 1600), rel=0.05)


def test_one_seed_and_one_site_have_no_interval():
    bounds = crossed_bootstrap(np.ones((1, 1, 2)))
    assert np.isnan(bounds.low).all()
    assert np.isnan(bounds.high).all()


def test_a_column_with_one_cell_has_none_and_the_others_keep_theirs():
    values = RNG(5).normal(size=(4, 3, 3))
    alone = crossed_bootstrap(values)
    values[:, :, 1] = math.nan
    values[2, 1, 1] = 0.5
    bounds = crossed_bootstrap(values)
    assert np.isnan(bounds.low[1])
    np.testing.assert_allclose(bounds.low[[0, 2]], alone.low[[0, 2]])
    np.testing.assert_allclose(bounds.high[[0, 2]], alone.high[[0, 2]])


def test_missing_cells_drop_out_of_numerator_and_denominator():
    """Two seeds, 0 and 1, at two sites, seed 1's second cell missing. Drawing seed 1 twice gives 1, not 1/2,
    and the tail for two levels is rarer than any draw: the bounds are the extremes, 0 and 1.
    """
    values = np.array([[0.0, 0.0], [1.0, math.nan]])[:, :, None]
    bounds = crossed_bootstrap(values)
    assert (bounds.low[0], bounds.high[0]) == (0.0, 1.0)


def test_a_ratio_uses_the_same_draws_above_and_below():
    """x = 3 o: every draw's ratio is 3, however much o varies."""
    below = RNG(6).uniform(1, 9, size=(5, 4, 2))
    bounds = crossed_bootstrap(3 * below, over=below)
    np.testing.assert_allclose(bounds.low, 3)
    np.testing.assert_allclose(bounds.high, 3)


def test_a_ratio_leaves_out_cells_that_lack_either():
    """The second seed has no numerator at all: what is left is one seed at two sites, ratios 1/2 and 2."""
    above = np.array([[1.0, 2.0], [math.nan, math.nan]])[:, :, None]
    below = np.array([[2.0, 1.0], [50.0, 60.0]])[:, :, None]
    bounds = crossed_bootstrap(above, over=below)
    assert (bounds.low[0], bounds.high[0]) == (0.5, 2.0)


@settings(max_examples=25)
@given(
    seeds=st.integers(1, 5), sites=st.integers(2, 5), shift=st.floats(-5, 5), scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_bounds_move_with_the_values_and_stay_in_their_range(seeds, sites, shift, scale, seed):
    values = RNG(seed).normal(size=(seeds, sites, 3))
    bounds = crossed_bootstrap(values, draws=200)
    moved = crossed_bootstrap(shift + scale * values, draws=200)
    np.testing.assert_allclose(moved.low, shift + scale * bounds.low, atol=1e-9)
    np.testing.assert_allclose(moved.high, shift + scale * bounds.high, atol=1e-9)
    assert (bounds.low <= bounds.high).all()
    assert (bounds.low >= values.min(axis=(0, 1)) - 1e-12).all()


def test_same_seed_same_bounds_and_blocks_change_nothing(monkeypatch):
    values = RNG(7).normal(size=(6, 5, 40))
    values[0, 0, 3] = math.nan
    first, again = crossed_bootstrap(values, draws=500), crossed_bootstrap(values, draws=500)
    np.testing.assert_array_equal(first.low, again.low)
    assert (crossed_bootstrap(values, draws=500, seed=1).low != first.low).all()
    monkeypatch.setattr("fedmerge.analysis.intervals.BLOCK", 1700)
    blocks = crossed_bootstrap(values, draws=500)
    np.testing.assert_allclose(blocks.low, first.low, rtol=1e-12)
    np.testing.assert_allclose(blocks.high, first.high, rtol=1e-12)
