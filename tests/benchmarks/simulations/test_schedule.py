"""The schedule of a round, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulations import schedule


def test_one_child_costs_two_ways_its_work_and_the_taking_in() -> None:
    """2 GB: out 2/1 + 2/0.5, work 7, back 2/0.5 + 2/1, taken in 3: 22 seconds."""
    done = schedule.gather(2.0, 1.0, 0.5, np.array([7.0]), 3.0)
    assert done == pytest.approx(2 + 4 + 7 + 4 + 2 + 3)


def test_a_slow_server_takes_answers_one_after_the_other() -> None:
    """Three children with instant lines: sent at 1, 2, 3, no work; taking in 10 each, back to back from 2."""
    done = schedule.gather(1.0, 1.0, 1e9, np.zeros(3), 10.0)
    assert done == pytest.approx(2 + 3 * 10)


def test_a_tree_of_one_region_is_a_flat_round_and_one_more_message() -> None:
    world, costs = schedule.World(spread=0.0), schedule.Costs(mean=1.0, check=0.5, journal=2.0)
    more = 4 * 1.0 / world.server + 1.5  # the root's line and the region's, out and back; the mean of one
    assert schedule.tree(5, 1, 1.0, world, costs) == pytest.approx(schedule.flat(5, 1.0, world, costs) + more)


def test_costs_are_seconds_a_gigabyte() -> None:
    """A model of 8 MB is taken in and kept in more than no time, and in less than a minute a GB."""
    costs = schedule.measure(megabytes=8, repeats=2)
    for seconds in (costs.mean, costs.check, costs.journal):
        assert 0 < seconds < 60
