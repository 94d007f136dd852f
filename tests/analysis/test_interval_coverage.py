"""How often the truth is inside an interval, and how wide it is: drawn many times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedmerge.analysis.intervals import crossed_interval, inside
from tests.analysis.crossed import RNG, coverage


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (5, 4), (3, 19), (10, 4), (5, 10), (2, 10)])
def test_sites_that_differ_are_covered(shape):
    """What resampling both covered .865 to .912 of the time. 4000 columns: standard error .0035."""
    assert coverage(0, 1, 0.3, shape)[0] > 0.94


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (5, 4), (3, 19), (10, 4), (5, 10), (2, 10)])
def test_seeds_that_differ_are_covered(shape):
    assert coverage(1, 0, 0.3, shape)[0] > 0.94


@pytest.mark.parametrize("shape", [(3, 4), (5, 4), (10, 10), (5, 40), (20, 20)])
@pytest.mark.parametrize("rest", [0.3, 1.0])
def test_both_that_differ_are_covered(shape, rest):
    """Seeds and sites weigh alike in the mean: one alone holds half of its variance."""
    assert coverage(math.sqrt(shape[0]), math.sqrt(shape[1]), rest, shape)[0] > 0.94


def test_a_rest_that_is_all_there_is_costs_no_more_than_few_levels_do():
    """t(9) = 2.26 against 1.96 is 1.15; the wider of two such adds a little. Counted twice: 1.5."""
    covered, width = coverage(0, 0, 1, (10, 10))
    assert covered > 0.95
    assert width < 1.35


def test_widths_come_near_to_what_could_be_known():
    """Many levels: t is the normal's 1.96, and both together are no wider than they must be."""
    assert coverage(math.sqrt(30), math.sqrt(30), 1, (30, 30), 500)[1] < 1.08
    assert coverage(0, 1, 0.3, (5, 30), 500)[1] < 1.08


@pytest.mark.parametrize("missing", [0.1, 0.4])
def test_missing_cells_are_covered(missing):
    rng = RNG(9)
    there = rng.random((5, 8)) > missing
    for seeds, sites in ((0, 1), (1, 0), (1, 1)):
        x = seeds * rng.normal(size=(5, 1, 4000)) + sites * rng.normal(size=(1, 8, 4000))
        x = x + 0.5 * rng.normal(size=(5, 8, 4000))
        found = crossed_interval(np.where(there[:, :, None], x, math.nan))
        assert ((found.low <= 0) & (found.high >= 0)).mean() > 0.94


def test_a_ratio_is_covered():
    """Errors of two methods at sites that are unlike hard; the ratio of their expectations is 0.8."""
    rng = RNG(10)
    hard = 1 + 0.3 * rng.uniform(-1, 1, size=(1, 8, 4000))
    below = hard + 0.05 * rng.normal(size=(4, 8, 4000))
    gain = 0.8 + 0.1 * rng.normal(size=(1, 8, 4000))
    found = crossed_interval(gain * hard + 0.05 * rng.normal(size=(4, 8, 4000)), over=below)
    assert 0.93 < ((found.low <= 0.8) & (found.high >= 0.8)).mean() < 0.98


def test_accuracies_near_their_end_are_covered_better():
    """Logistic of 2.5 + sites + rest: its mean is that of two million draws."""
    rng = RNG(12)

    def draw(*shape):
        effects = rng.normal(size=(1, *shape[1:])) + 0.3 * rng.normal(size=shape)
        return 1 / (1 + np.exp(-2.5 - effects))

    truth = draw(1, 1, 2_000_000).mean()
    found = crossed_interval(draw(5, 10, 4000))
    better = inside(found, 0, 1)
    plain = ((found.low <= truth) & (truth <= found.high)).mean()
    assert ((better.low <= truth) & (truth <= better.high)).mean() > plain + 0.02
