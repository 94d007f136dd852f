"""Intervals over seeds and sites: by hand, by matrices, and by what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmerge.analysis.intervals import Interval, crossed_interval, inside
from tests.analysis.crossed import RNG, T, half
from tests.facts import refused


def table(seeds, sites, rest, n_seeds: int, n_sites: int) -> np.ndarray:
    """Effects along a straight line for seeds and sites, and a rest that is orthogonal to both."""
    line = [np.arange(n) - (n - 1) / 2 for n in (n_seeds, n_sites)]
    bend = [each**2 - (each**2).mean() for each in line]
    return 7 + seeds * line[0][:, None] + sites * line[1] + rest * np.outer(*bend)


@pytest.mark.parametrize("shape", [(12, 1, 1), (1, 12, 1)], ids=["seeds", "sites"])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_one_factor_alone_is_students_t(shape, level):
    values = RNG(1).normal(3, 2, size=12)
    found = crossed_interval(values.reshape(shape), level=level)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low[0], found.high[0]) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(("seeds", "sites"), [(3, 19), (19, 3), (3, 4), (4, 3)])
def test_the_factor_that_varies_has_its_own_degrees_of_freedom(seeds, sites):
    """Only seeds vary, by steps of 1: s^2 = S (S + 1) / 12. Then half is t(S - 1) s / sqrt S; sites alike."""
    for shape, n in (((1, 0), seeds), ((0, 1), sites)):
        s = math.sqrt(n * (n + 1) / 12)
        values = table(*shape, 0, seeds, sites)
        assert half(values)[0] == pytest.approx(T[n - 1] * s / math.sqrt(n), rel=1e-5)


def test_both_factors_together_by_hand():
    """5 x 5, steps of sqrt 2 in both: A = B = 2.5 * 2 / 5 = 1, and v = 2^2 / (1 / 4 + 1 / 4) = 8.

    The rest is c (2, -1, -2, -1, 2) x the same: sum of squares 196 c^2 with 16 degrees of freedom, so
    R = 196 c^2 / 16 / 25 = 0.49 c^2. c = 1: t(8) sqrt 1.51 = 2.834, above t(4) = 2.776 of one factor alone.
    c^2 = 2: t(8) sqrt 1.02 is less than that.
    """
    step = math.sqrt(2)
    assert half(table(step, step, 0, 5, 5))[0] == pytest.approx(T[8] * step, rel=1e-5)
    assert half(table(step, step, 1, 5, 5))[0] == pytest.approx(T[8] * math.sqrt(1.51), rel=1e-5)
    assert half(table(step, step, step, 5, 5))[0] == pytest.approx(T[4], rel=1e-5)


def test_unequal_factors_share_their_degrees_of_freedom():
    """A = 2 of 5 seeds (0.5 a step^2), B = 1 of 9 sites (5 / 6): v = 3^2 / (2^2 / 4 + 1^2 / 8) = 8."""
    values = table(2, math.sqrt(1.2), 0, 5, 9)
    assert half(values)[0] == pytest.approx(T[8] * math.sqrt(3), rel=1e-5)


def test_a_rest_that_cancels_in_both_means_is_not_forgotten():
    """3 x 5, all seeds' and all sites' means alike: c (1, -2, 1) x (2, -1, -2, -1, 2) / 3 has A = B = 0.

    c = 3: sum of squares 6 * 14 = 84 with 8 degrees of freedom, R = 84 / 8 / 15 = 0.7.
    """
    assert half(table(0, 0, 3, 3, 5))[0] == pytest.approx(T[8] * math.sqrt(0.7), rel=1e-5)


def test_one_seed_and_one_site_have_no_interval():
    found = crossed_interval(np.ones((1, 1, 2)))
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    np.testing.assert_array_equal(found.mean, 1)


def test_a_column_with_one_cell_has_none_and_the_others_keep_theirs():
    values = RNG(5).normal(size=(4, 3, 3))
    alone = crossed_interval(values)
    values[:, :, 1] = math.nan
    values[2, 1, 1] = 0.5
    found = crossed_interval(values)
    assert np.isnan(found.low[1])
    assert found.mean[1] == 0.5
    np.testing.assert_allclose(found.low[[0, 2]], alone.low[[0, 2]])
    np.testing.assert_allclose(found.high[[0, 2]], alone.high[[0, 2]])


def test_a_missing_level_is_none():
    """The third seed has no value, so there are two; and sites that have none are not counted as sites."""
    values = RNG(6).normal(size=(3, 4, 1))
    values[2], values[:, 3] = math.nan, math.nan
    np.testing.assert_allclose(half(values), half(values[:2, :3]))


def test_a_site_with_one_cell_counts_as_a_site():
    """Site 1 has ten cells of 0, site 2 one of 11; the mean is 1.

    Two sites 11 apart: variance 11^2 / 2 = 60.5; the mean has (100 + 1) / 121 of it, 50.5, with one degree
    of freedom. A site mean that counts by its cells alone would have been taken for a variance of 3.3.
    """
    values = np.full((10, 2), math.nan)
    values[:, 0], values[0, 1] = 0, 11
    assert half(values)[0] == pytest.approx(T[1] * math.sqrt(50.5), rel=1e-5)


def by_matrices(values: np.ndarray, level: float = 0.95) -> float:
    """The same interval written out with one matrix a factor, for a table with missing cells."""
    there = np.isfinite(values)
    y, n = values[there], there.sum()
    design = [np.eye(size)[index[there]] for size, index in zip(values.shape, np.indices(values.shape))]  # noqa: B905
    z, found = y - y.mean(), []
    for each in (part[:, part.any(axis=0)] for part in design):
        w = each.mean(axis=0)
        centre = np.eye(len(w)) - np.outer(np.ones(len(w)), w)
        form = centre.T @ np.diag(w**2) @ centre
        means = (each.T @ z) / each.sum(axis=0)
        scale = (w**2).sum() / np.trace(form)
        rest = scale * np.trace(form @ np.diag(1 / each.sum(axis=0)))
        free = np.trace(form) ** 2 / np.trace(form @ form)
        found.append((scale * means @ form @ means, free, rest))
    fit, _, rank, _ = np.linalg.lstsq(np.hstack(design), y, rcond=None)
    left = ((y - np.hstack(design) @ fit) ** 2).sum()
    noise = left / (n - rank) if n > rank else 0.0
    (a, a_free, a_rest), (b, b_free, b_rest) = found
    both = max(a + b - (a_rest + b_rest - 1 / n) * noise, 0)
    free = (a + b) ** 2 / (a**2 / a_free + b**2 / b_free)
    upper = (1 + level) / 2
    pairs = ((a, a_free), (b, b_free), (noise / n, max(n - rank, 1)), (both, free))
    return max(stats.t.ppf(upper, df) * math.sqrt(variance) for variance, df in pairs)


@pytest.mark.parametrize("seed", range(8))
def test_missing_cells_by_matrices(seed):
    rng = RNG(seed)
    values = rng.normal(size=(5, 1)) + rng.normal(size=(1, 6)) + 0.7 * rng.normal(size=(5, 6))
    values[rng.random((5, 6)) < 0.35] = math.nan
    assert half(values)[0] == pytest.approx(by_matrices(values))


def test_columns_with_their_own_missing_cells_do_not_touch_each_other():
    values = RNG(7).normal(size=(6, 5, 40))
    values[RNG(8).random(values.shape) < 0.2] = math.nan
    together = crossed_interval(values)
    for i in range(40):
        one = crossed_interval(values[:, :, [i]])
        np.testing.assert_allclose((one.low[0], one.high[0]), (together.low[i], together.high[i]))


def test_a_ratio_that_is_the_same_everywhere_has_no_width():
    """x = 3 o, however much o varies."""
    below = RNG(6).uniform(1, 9, size=(5, 4, 2))
    found = crossed_interval(3 * below, over=below)
    np.testing.assert_allclose(found.low, 3)
    np.testing.assert_allclose(found.high, 3)


def test_a_ratio_leaves_out_cells_that_lack_either():
    """The second seed has no numerator, the third no denominator: one seed at two sites is left, 1/2 and 2/1.

    The ratio is 3 / 3 = 1; x - r o is -1 and 1, divided by the mean of o, 1.5: half is t(1) (1 / 1.5).
    """
    above = np.array([[1.0, 2.0], [math.nan, math.nan], [70.0, 80.0]])[:, :, None]
    below = np.array([[2.0, 1.0], [50.0, 60.0], [math.nan, math.nan]])[:, :, None]
    found = crossed_interval(above, over=below)
    assert found.mean[0] == 1
    assert half(above, over=below)[0] == pytest.approx(T[1] / 1.5, rel=1e-5)


def test_a_ratio_to_nothing_is_no_number():
    found = crossed_interval(np.ones((2, 2, 1)), over=np.zeros((2, 2, 1)))
    assert np.isnan([found.mean, found.low, found.high]).all()


def test_a_share_is_taken_on_the_scale_of_its_log_odds():
    """0.8 has odds 4, and 0.08 is 0.08 / (0.8 * 0.2) = 0.5 of its log-odds: odds 4 / e^0.5 and 4 e^0.5.

    A Brier score of 1.6 of 2 with half 0.16 is the same twice as large; a ratio of 2 with half 1 has half 0.5
    of its logarithm.
    """
    odds = 4 * np.exp([-0.5, 0.5])
    share = inside(Interval(*np.array([[0.8], [0.72], [0.88]])), 0, 1)
    assert [share.low[0], share.high[0]] == pytest.approx(list(odds / (1 + odds)))
    brier = inside(Interval(*np.array([[1.6], [1.44], [1.76]])), 0, 2)
    assert [brier.low[0], brier.high[0]] == pytest.approx(list(2 * odds / (1 + odds)))
    ratio = inside(Interval(*np.array([[2.0], [1.0], [3.0]])), 0)
    assert [ratio.low[0], ratio.high[0]] == pytest.approx([2 * math.exp(-0.5), 2 * math.exp(0.5)])


def test_at_an_end_there_is_no_room():
    """Everything right, everything wrong, no interval; and a half of thousands stays inside."""
    mean, half = np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.0, 0.0, math.nan, 3000.0])
    found = inside(Interval(mean, mean - half, mean + half), 0, 1)
    np.testing.assert_array_equal(found.low, [1, 0, math.nan, 0])
    np.testing.assert_array_equal(found.high, [1, 0, math.nan, 1])


@settings(max_examples=50)
@given(
    seeds=st.integers(1, 5), sites=st.integers(2, 5), shift=st.floats(-5, 5), scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_bounds_move_with_the_values_and_know_no_order(seeds, sites, shift, scale, seed):
    """Shifted and stretched, seeds and sites exchanged, levels in another order."""
    rng = RNG(seed)
    values = rng.normal(size=(seeds, sites, 3))
    values[rng.random(values.shape) < 0.1] = math.nan
    found = crossed_interval(values)
    moved = crossed_interval(shift + scale * values)
    np.testing.assert_allclose(moved.low, shift + scale * found.low, atol=1e-9)
    np.testing.assert_allclose(moved.high, shift + scale * found.high, atol=1e-9)
    for other in (values.transpose(1, 0, 2), values[rng.permutation(seeds)][:, rng.permutation(sites)]):
        np.testing.assert_allclose(crossed_interval(other).low, found.low, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "more", "facts"),
    [
        (np.zeros((3, 4)), {}, ("(3, 4)", "seeds x sites")),
        (np.zeros((3, 4, 2)), {"over": np.ones((3, 4, 1))}, ("(3, 4, 1)", "(3, 4, 2)")),
        (np.zeros((3, 4, 1)), {"level": 95}, (95, "level")),
        (np.full((3, 4, 1), np.inf), {}, ("finite",)),
    ],
)
def test_what_has_no_interval_is_refused(values, more, facts):
    with refused(*facts):
        crossed_interval(values, **more)
