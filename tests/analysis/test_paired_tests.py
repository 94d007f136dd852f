from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedmerge.analysis.paired_tests import holm, paired_tests, randomisation_p
from tests.facts import refused


def test_of_three_units_every_sign_is_counted() -> None:
    """Of the eight sums of +-1 +-2 +-3 two are 6 away from 0, four at least 4, all at least 0."""
    assert randomisation_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert randomisation_p(np.array([1.0, 2.0, -3.0])) == 1
    assert randomisation_p(np.array([-1.0, 2.0, 3.0])) == 4 / 8  # 4 and 6, either way


def test_many_units_are_drawn_alike_each_time() -> None:
    differences = np.ones(20)
    assert randomisation_p(differences) == randomisation_p(differences) < 0.001
    assert 0.05 < randomisation_p(np.tile([1.0, -0.9], 10)) <= 1


def test_holm_by_hand() -> None:
    """Sorted .01, .03, .04 times 3, 2, 1: .03, .06, .04, and none below the one before."""
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.7, 0.9])) == pytest.approx([1.0, 1.0])


def table() -> pd.DataFrame:
    """Two seeds at three sites: ``better`` is 0.1, 0.2, 0.3 above the mean, ``same`` as it."""
    rows = [
        {"method": method, "seed": seed, "site": site, "stream": "iid", "severity": 0, "accuracy": score}
        for seed in (0, 1)
        for site, gain in (("a", 0.1), ("b", 0.2), ("c", 0.3))
        for method, score in (("mean", 0.5), ("better", 0.5 + gain), ("same", 0.5))
    ]
    return pd.DataFrame(rows)


def test_hospitals_are_the_units_and_seeds_are_not() -> None:
    found = paired_tests(table(), "mean").set_index("level")
    assert found.loc["better", "units"] == 3
    assert found.loc["better", "difference"] == pytest.approx(0.2)
    assert found.loc["better", "p"] == 0.25
    assert found.loc["better", "p_holm"] == 0.5
    assert found.loc["same", "p"] == 1


def test_a_reference_that_is_none_and_nothing_to_pair() -> None:
    with refused("means", "Did you mean 'mean'"):
        paired_tests(table(), "means")
    with refused("mean", "accuracy"):
        paired_tests(table().query("method == 'mean'"), "mean")


def test_differences_in_the_last_bit_are_none():
    """0.1 + 0.2 and 0.3 are one score: at eight hospitals they would give p = 2^-7."""
    rows = [
        {"seed": 0, "site": f"h{i}", "stream": "iid", "method": method, "accuracy": score}
        for i in range(8)
        for method, score in (("mean", 0.3), ("kf", 0.1 + 0.2), ("hf", np.inf if i else 0.3))
    ]
    found = paired_tests(pd.DataFrame(rows), "mean").set_index("level")
    assert found.loc["kf", ["units", "p"]].tolist() == [8, 1.0]
    assert found.loc["hf", "units"] == 1  # what is not finite is missing, as in every table


@pytest.mark.parametrize("differences", [[], [0.1, np.nan], [0.1, np.inf]])
def test_what_is_missing_has_no_p(differences):
    with refused(len(differences), "finite"):
        randomisation_p(np.array(differences))
