"""The simulated schedule against rounds that can be worked out by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    schedule = importlib.import_module("scale_schedule")

Costs, flat, tree = schedule.Costs, schedule.flat, schedule.tree
FREE = Costs(link=1e12, add=0.0, hospital=1e-12)


def test_without_costs_a_round_takes_its_slowest_training():
    training = np.array([3.0, 9.0, 4.0])
    assert flat(training, 1.0, FREE).seconds == pytest.approx(9)
    assert tree(training, 1.0, FREE, fan=2).seconds == pytest.approx(9)


def test_the_link_carries_one_model_at_a_time():
    """Models of 10 MB at 10 MB/s are sent until 1, 2, 3 s; all train 5 s: back from 6 on, a second apart."""
    costs = Costs(link=10.0, add=0.0, hospital=1e-12)
    assert flat(np.full(3, 5.0), 10.0, costs).seconds == pytest.approx(1 + 5 + 3)


def test_in_order_answers_wait_for_the_first():
    """The first is back last, at 10: the two others wait, and all three are added then, 2 s each."""
    costs = Costs(link=1e12, add=0.0, hospital=2.0)
    training = np.array([10.0, 1.0, 2.0])
    assert flat(training, 1.0, costs).waiting == 3
    assert flat(training, 1.0, costs).seconds == pytest.approx(10 + 3 * 2)
    free = flat(training, 1.0, costs, ordered=False)
    assert (free.waiting, free.seconds) == (1, pytest.approx(10 + 2))
    assert free.busy == pytest.approx(6 / 12)


def test_a_tree_shares_the_link_among_regions():
    """Four hospitals, 10 MB at 10 MB/s, no training: flat, the fourth is back at 5 s at the earliest; a
    region of two is through at 3, and its sums of twice the size go up one after the other."""
    costs = Costs(link=10.0, add=0.0, hospital=1e-12)
    assert flat(np.zeros(4), 10.0, costs).seconds == pytest.approx(1 + 4)
    assert tree(np.zeros(4), 10.0, costs, fan=2).seconds == pytest.approx(1 + 3 + 2 * 2)
