from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest

from fedmerge.analysis import (
    by_site,
    cells,
    difference,
    interval_rule,
    leaderboard,
    robustness,
    severity_curve,
)
from fedmerge.analysis.comparison import PAIRED
from fedmerge.errors import FedMergeError
from tests.facts import refused

SITE = {"coast": 0.0, "lake": 0.1, "hill": 0.2}
METHOD = {"mean": 0.5, "greedy": 0.6, "worse": 0.3}


def plain(method, seed, site, **_):
    return METHOD[method] + SITE[site] + 0.01 * seed


def rows(board: pd.DataFrame) -> pd.DataFrame:
    return board.set_index("level")


def test_cells_side_by_side(make_table):
    table = make_table(
        plain, method=("mean", "greedy"), training=("with", "without"), shifts=[("none", 0), ("blur", 2)]
    )
    frame = cells(table, "method", within=("training",))
    assert frame.index.names == ["training", "seed", "site", "stream"]
    assert list(frame.columns) == ["mean", "greedy"]
    assert len(frame) == 2 * 2 * 2 * 2  # the shifted rows are not there
    assert frame.loc[("with", 1, "lake", "iid"), "greedy"] == pytest.approx(0.71)


def test_a_failed_row_is_a_missing_cell(make_table):
    table = make_table(plain)
    failed = (table["method"] == "greedy") & (table["seed"] == 1) & (table["site"] == "lake")
    table.loc[failed, ["status", "accuracy"]] = ["failed", math.nan]
    frame = cells(table, "method")
    assert frame["greedy"].isna().sum() == 2  # both streams
    assert frame["mean"].notna().all()


def test_a_mean_over_fewer_rows_is_no_value(make_table):
    """Each cell averages two trainings; where greedy has only one of them it has no value, not that one's."""
    table = make_table(lambda training, **where: plain(**where) + 0.2 * (training == "with"),
                       method=("mean", "greedy"), training=("with", "without"))  # fmt: skip
    lost = (table["method"] == "greedy") & (table["training"] == "without") & (table["seed"] == 0)
    frame = cells(table[~lost], "method")
    assert frame.loc[(1, "coast", "iid"), "greedy"] == pytest.approx(0.61 + 0.1)
    assert frame.loc[0, "greedy"].isna().all()
    assert frame.loc[(0, "coast", "iid"), "mean"] == pytest.approx(0.5 + 0.1)


def test_leaderboard_by_hand(make_table):
    """Means: 0.5 + 0.05 (sites) + 0.005 (seeds). Worst site: coast, always. Greedy is 0.1 above in all."""
    board = leaderboard(make_table(plain, method=METHOD), reference="mean")
    assert board["level"].tolist() == ["greedy", "mean", "worse"]
    frame = rows(board)
    np.testing.assert_allclose(frame["mean"], [0.655, 0.555, 0.355])
    np.testing.assert_allclose(frame["difference"], [0.1, 0, -0.2], atol=1e-12)
    for bound in ("difference_low", "difference_high"):  # equal in every cell: equal in every draw
        np.testing.assert_allclose(frame[bound], [0.1, 0, -0.2], atol=1e-12)
    np.testing.assert_allclose(frame["worst"], [0.605, 0.505, 0.305])
    assert frame["wins"].tolist() == [8, 0, 0]
    assert frame["losses"].tolist() == [0, 0, 8]
    assert frame["ties"].tolist() == [0, 8, 0]
    assert frame["rank"].tolist() == [1, 2, 3]
    assert frame["seeds"].tolist() == frame["sites"].tolist() == [2, 2, 2]
    assert frame["complete"].all()
    np.testing.assert_allclose(frame["ece"], 1 - frame["mean"])
    # two sites 0.1 apart: half is t(1) 0.05 = 0.6353; of the worst site in two seeds t(1) 0.005
    for name, half in (("", 0.635310), ("worst_", 0.0635310)):
        mean = frame["mean" if name == "" else "worst"]
        logit, step = np.log(mean / (1 - mean)), half / (mean * (1 - mean))
        np.testing.assert_allclose(frame[f"{name}low"], 1 / (1 + np.exp(step - logit)), rtol=1e-4)
        np.testing.assert_allclose(frame[f"{name}high"], 1 / (1 + np.exp(-step - logit)), rtol=1e-4)


@pytest.mark.parametrize("metric", ["accuracy", "ece"])
def test_two_levels_alone_differ_as_they_do_on_the_leaderboard(make_table, metric):
    table = make_table(plain, method=METHOD)
    board = rows(leaderboard(table, reference="mean", metric=metric))
    for level in METHOD:
        assert difference(table, level, "mean", metric=metric) == pytest.approx(
            board.loc[level, PAIRED].to_dict()
        )
    with refused("nobody", "method"):
        difference(table, "nobody", "mean")


def test_no_bound_lies_beyond_what_a_score_can_be(make_table):
    """Two sites 0 and 1, gains -1 and 1: the mean 0.5 has log-odds 0, half 4 * 12.706 * 0.5 = 25.4 of them.

    The gains' t(1) = 12.706 is cut; seconds have no end.
    """
    table = make_table(lambda method, site, **_: float((method == "greedy") == (site == "lake")), seeds=[0])
    table["seconds"] = 200 * table["accuracy"]
    bounds = ["low", "high", "difference_low", "difference_high"]
    assert rows(leaderboard(table, reference="mean")).loc["greedy", bounds].tolist() == pytest.approx(
        [1 / (1 + math.exp(25.4124)), 1 / (1 + math.exp(-25.4124)), -1, 1], rel=1e-3
    )
    seconds = rows(leaderboard(table, reference="mean", metric="seconds")).loc["greedy", bounds]
    np.testing.assert_allclose(seconds.astype(float), [-1170.62, 1370.62, -2541.24, 2541.24], atol=0.01)


def test_without_a_reference_there_are_no_differences(make_table):
    board = leaderboard(make_table(plain))
    assert (
        board[["difference", "difference_low", "difference_high", "wins", "losses", "ties"]]
        .isna()
        .all(axis=None)
    )
    assert board["mean"].notna().all()


def test_one_seed_and_one_site_give_means_without_intervals(make_table):
    board = leaderboard(make_table(plain, seeds=[0], sites=["coast"]), reference="mean")
    assert board[["low", "high", "difference_low", "worst_high"]].isna().all(axis=None)
    assert rows(board).loc["greedy", "difference"] == pytest.approx(0.1)


def test_pairs_where_both_have_a_value(make_table):
    """Greedy fails at lake, the easy site. Its mean falls below the reference's, its difference stays 0.1."""
    table = make_table(plain)
    table.loc[(table["method"] == "greedy") & (table["site"] == "lake"), "status"] = "failed"
    frame = rows(leaderboard(table, reference="mean"))
    assert frame.loc["greedy", "difference"] == pytest.approx(0.1)
    assert frame.loc["greedy", "mean"] == pytest.approx(0.605)
    assert frame.loc["greedy", ["seeds", "sites", "wins"]].tolist() == [2, 1, 4]
    assert frame["complete"].to_dict() == {"mean": True, "greedy": False}


def test_a_level_that_never_finished_is_shown_as_such(make_table):
    table = make_table(plain)
    table.loc[table["method"] == "greedy", ["status", "accuracy"]] = ["failed", math.nan]
    frame = rows(leaderboard(table, reference="mean"))
    assert math.isnan(frame.loc["greedy", "mean"])
    assert math.isnan(frame.loc["greedy", "rank"])
    assert not frame.loc["greedy", "complete"]
    assert frame.loc["greedy", "seeds"] == 0
    assert leaderboard(table, reference="greedy")["difference"].isna().sum() == 2


def test_lower_is_better_for_calibration_error(make_table):
    board = leaderboard(make_table(plain), reference="mean", metric="ece")
    assert board["level"].tolist() == ["greedy", "mean"]
    greedy = rows(board).loc["greedy"]
    assert greedy["difference"] == pytest.approx(-0.1)
    assert (greedy["wins"], greedy["rank"]) == (8, 1)
    assert greedy["worst"] == pytest.approx(1 - 0.605)  # the higher error, at coast


def test_equal_levels_share_their_rank_and_tie(make_table):
    frame = rows(leaderboard(make_table(lambda **_: 0.1 + 0.2), reference="mean"))
    assert frame["rank"].tolist() == [1.5, 1.5]
    assert frame["ties"].tolist() == [8, 8]


def test_strata_are_compared_within_themselves(make_table):
    """In cohort "b" the gain is 0.3 and the site another one; the two cohorts do not mix."""
    first = make_table(plain)
    second = make_table(lambda method, **_: 0.2 + 0.3 * (method == "greedy"), sites=["hill"])
    table = pd.concat([first.assign(cohort="a"), second.assign(cohort="b")])
    board = leaderboard(table, reference="mean", within=("cohort",))
    assert board["cohort"].tolist() == ["a", "a", "b", "b"]
    greedy = board[board["level"] == "greedy"].set_index("cohort")
    np.testing.assert_allclose(greedy["difference"], [0.1, 0.3])
    assert greedy["sites"].tolist() == [2, 1]
    assert interval_rule(table).count("1 to 2 sites") == 1


def test_the_order_of_rows_changes_nothing(make_table):
    rng = np.random.default_rng(0)
    table = make_table(lambda **_: rng.random(), seeds=range(4), sites=["a", "b", "c"], method=METHOD)
    board = leaderboard(table, reference="mean")
    shuffled = leaderboard(table.sample(frac=1, random_state=1), reference="mean")
    pd.testing.assert_frame_equal(rows(board), rows(shuffled).loc[board["level"]])


def test_a_run_without_axes_shifts_or_status(make_table):
    table = make_table(plain).drop(columns=["status", "shift", "severity", "cohort"])
    assert leaderboard(table)["level"].tolist() == ["greedy", "mean"]


def test_by_site(make_table):
    """Over seeds 0 and 1 the mean is 0.005 above the first; t(1) times as much is 0.0635.

    Log-odds of 0.705 are 0.8712, 0.0635 / (0.705 * 0.295) = 0.3055 of them is half of the interval.
    """
    frame = by_site(make_table(plain), "method").set_index(["level", "site"])
    low, high = (1 / (1 + math.exp(-0.8712 - half)) for half in (-0.3055, 0.3055))
    assert frame.loc[("greedy", "lake")].tolist() == pytest.approx([0.705, low, high], abs=1e-4)
    assert len(frame) == 4


@pytest.mark.parametrize(
    ("seeds", "sites", "words", "not_said"),
    [
        ([0], ["coast"], ["no interval"], ["Student"]),
        ([0, 1, 2], ["coast"], ["Student's t over the 3 seeds", "nothing of other sites"], ["freedom"]),
        ([0], ["coast", "lake", "hill"], ["t over the 3 sites", "nothing of other seeds"], ["freedom"]),
        ([0], ["coast", "lake"], ["t over the 2 sites", "Two levels", "12.7"], ["widest"]),
        ([0, 1, 2], ["coast", "lake", "hill"], ["widest", "3 seeds", "3 sites", "Satterthwaite"], ["12.7"]),
        ([0, 1, 2], ["coast", "lake"], ["widest", "3 seeds", "2 sites", "12.7"], ["nothing"]),
    ],
)
def test_the_interval_in_words(make_table, seeds, sites, words, not_said):
    """What it is made of, what it speaks for, and that two levels say little."""
    rule = interval_rule(make_table(plain, seeds=seeds, sites=sites))
    assert all(word in rule for word in words)
    assert not any(word in rule for word in not_said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compare": "metod"}, ["column 'metod'", "'method'"]),
        ({"metric": "acuracy"}, ["column 'acuracy'", "'accuracy'"]),
        ({"metric": "site"}, ["'site'", "numbers"]),
        ({"within": ("cohrt",)}, ["'cohrt'", "'cohort'"]),
        ({"reference": "gredy"}, ["'gredy'", "Did you mean 'greedy'?"]),
    ],
)
def test_bad_input_is_one_sentence(make_table, options, words):
    with pytest.raises(FedMergeError) as error:
        leaderboard(make_table(plain), **options)
    for word in words:
        assert word in str(error.value)


def test_nothing_done_and_nothing_clean_are_said(make_table):
    with refused("done", "row"):
        leaderboard(make_table(plain).assign(status="failed"))
    with refused(0, "severity"):
        leaderboard(make_table(plain, shifts=[("blur", 1)]))


def test_a_large_study_is_compared_in_seconds(make_table):
    """100 000 rows: 20 methods, 5 strata, 10 seeds, 10 sites, 5 streams clean and 5 severities. It takes 2 s
    on two slow cores; the bound is loose, for they are shared."""
    rng = np.random.default_rng(0)
    shifts = [("none", 0), *(("blur", severity) for severity in range(1, 6))]
    sites = [f"s{i}" for i in range(10)]
    few = {"seeds": range(10), "sites": sites, "method": range(20), "training": range(5)}
    table = pd.concat(
        [
            make_table(lambda **_: rng.random(), streams=["iid"], shifts=shifts, **few),
            make_table(lambda **_: rng.random(), streams=["b", "c", "d", "e"], **few),
        ]
    )
    assert len(table) == 100_000
    began = time.process_time()
    leaderboard(table, reference=0, within=("training",))
    robustness(table, reference=0, within=("training",))
    severity_curve(table, "method", within=("training",))
    by_site(table)
    assert time.process_time() - began < 30
