"""The simulation of intervals: small, and what its large run says of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import ROOT
from benchmarks.simulations import intervals


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    """Where sites alone differ, at 3 seeds x 4 sites, 1000 times."""
    rows = intervals.measure([(3, 4)], ["sites differ"], 1000)
    return rows.set_index("interval")[["coverage", "width"]]


def test_t_over_sites_is_right_where_sites_differ(found: pd.DataFrame) -> None:
    """t(3) = 3.18 against 1.96, times 0.92, what a deviation of four is of the true one on average: 1.50."""
    width = stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975) * 0.9213
    assert found.loc["t over sites", "coverage"] == pytest.approx(0.95, abs=0.02)
    assert found.loc["t over sites", "width"] == pytest.approx(width, rel=0.03)
    assert found.loc["crossed_interval", "coverage"] > 0.935


def test_what_says_nothing_of_sites_covers_little(found: pd.DataFrame) -> None:
    assert found.loc["t over seeds", "coverage"] < 0.9


def test_resampling_four_sites_covers_their_range() -> None:
    """Percentiles of four sites, widened to the extremes: the range of four covers 1 - 2 / 2^4 = 87.5 %."""
    rows = intervals.measure([(1, 4)], ["sites differ"], 1000).set_index("interval")["coverage"]
    assert rows["crossed bootstrap"] == pytest.approx(0.875, abs=0.03)
    assert rows["crossed_interval"] == pytest.approx(0.95, abs=0.02)


def test_parts_add_up_to_the_variance_of_all_cells() -> None:
    """Twelve cells: the sum of squares is that of the seeds' means, of the sites' means and of the rest."""
    x = np.random.default_rng(0).normal(size=(3, 4, 1))
    seeds, sites, rest = (part[0] for part in intervals.parts(x))
    assert seeds == pytest.approx(stats.sem(x[:, :, 0].mean(axis=1)) ** 2)
    assert sites == pytest.approx(stats.sem(x[:, :, 0].mean(axis=0)) ** 2)
    squares = 12 * x.var() - 4 * 2 * (3 * seeds) - 3 * 3 * (4 * sites)
    assert rest == pytest.approx(squares / 6 / 12)


def test_the_large_run_covers_what_is_said_of_it() -> None:
    """Ours holds at least 94 % wherever effects are normal; the standard error of 4000 draws is .0035."""
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "intervals.csv")
    ours = rows[(rows["interval"] == intervals.OURS) & rows["world"].isin(intervals.NORMAL)]
    assert len(ours) == len(intervals.SIZES) * len(intervals.NORMAL)
    assert ours["coverage"].min() >= 0.94
    others = rows[rows["world"].isin(intervals.NORMAL)].groupby("interval")["coverage"].min()
    assert (others.drop(intervals.OURS) < 0.93).all()


def test_the_page_shows_the_numbers_of_the_file() -> None:
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "intervals.csv")
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert intervals.table(rows) in page
    assert intervals.summary(rows) in page
