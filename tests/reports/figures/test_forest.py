"""Dots, intervals and order of the forest are those of the leaderboard."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from fedmerge.analysis import leaderboard
from fedmerge.reports.figures import describe_forest, forest, render


def dots(axes):
    """(difference in points, row, whether filled) of each dot."""
    return sorted(
        (round(float(x), 6), float(y), to_hex(line.get_markerfacecolor()) != "#ffffff")
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if not np.isnan(x)
    )


@pytest.mark.filterwarnings("error")
def test_every_case_is_neat(board, case, width, neat):
    neat(forest(board(**case), "method", case.get("levels", ["mean"])[0], "accuracy", width), width)


@pytest.mark.filterwarnings("error")
def test_one_seed_has_hollow_dots_without_interval(board, width, neat, texts):
    figure = forest(board(half=np.nan), "method", "mean", width=width)
    neat(figure, width)
    assert [filled for *_, filled in dots(figure.axes[0])] == [False] * 4
    assert "no interval" in texts(figure)
    assert "better than zero" not in describe_forest(board(half=np.nan), "method", "mean").text


def test_dots_are_the_differences_in_points_best_on_top(board):
    """Differences 2, 4, 6 and 8 points, +- 5: only the two largest exclude zero. The reference has no dot."""
    figure = forest(board(half=0.05), "method", "mean")
    expected = [(2.0, 3.0, False), (4.0, 2.0, False), (6.0, 1.0, True), (8.0, 0.0, True)]
    assert dots(figure.axes[0]) == expected
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "entropy-adaptive", "ties", "fisher", "greedy",
    ]  # fmt: skip


def test_intervals_are_drawn_to_their_bounds(board):
    spans = forest(board(half=0.05), "method", "mean").axes[0].collections[0].get_segments()
    assert sorted(round(float(end), 6) for span in spans for end in span[:, 0]) == [
        -3.0, -1.0, 1.0, 3.0, 7.0, 9.0, 11.0, 13.0,
    ]  # fmt: skip


def test_reference_is_a_named_line_at_zero(board, texts):
    figure = forest(board(), "method", "mean", "balanced_accuracy")
    assert any(list(line.get_xdata()) == [0, 0] for line in figure.axes[0].lines)
    assert "mean" in [text.get_text() for text in figure.axes[0].texts]
    assert "points of balanced accuracy against mean" in texts(figure)


def test_panels_have_the_same_order_though_they_differ(board):
    """Over strata greedy has (2 + 20) / 2 = 11 points, more than entropy-adaptive's 8: first in both."""
    frame = board(strata=("a", "b"))
    frame.loc[(frame["cohort"] == "b") & (frame["method"] == "greedy"), "difference"] = 0.20
    first, second = forest(frame, "method", "mean").axes
    assert (2.0, 0.0, False) in dots(first)
    assert (20.0, 0.0, False) in dots(second)
    assert (8.0, 1.0, True) in dots(first)
    assert first.get_xlim() == second.get_xlim()


def test_missing_level_leaves_its_row_empty(board):
    frame = board(strata=("a", "b"))
    frame = frame[(frame["cohort"] == "a") | (frame["method"] != "greedy")]
    first, second = forest(frame, "method", "mean").axes
    assert len(dots(first)) == 4
    assert [y for _, y, _ in dots(second)] == [2.0, 1.0, 0.0]


def test_lower_calibration_error_is_better(board):
    """Of differences 2 to 8 points of ECE the smallest is on top, and all four are worse."""
    frame = board(half=0.01)
    assert dots(forest(frame, "method", "mean", "ece").axes[0])[0] == (2.0, 0.0, True)
    title = describe_forest(frame, "method", "mean", "ece").title
    assert title.startswith("greedy comes closest to mean: +2.0 points of calibration error")
    assert "0 are better than zero and 4 worse" in title


def test_words_hold_the_numbers(board):
    caption = describe_forest(board(half=0.05), "method", "mean")
    assert caption.title.startswith("entropy-adaptive is best against mean: +8.0 points of accuracy")
    assert "of 4 intervals 2 are better than zero and 0 worse" in caption.title
    assert "fisher +4.0 (−1.0 to +9.0)" in caption.detail


def test_more_than_twelve_strata_are_averaged(board, texts):
    """13 strata; greedy has 2 points in each of the twelve it is in. One panel, and the label says so."""
    frame = board(strata=[f"c{i}" for i in range(13)])
    frame = frame[(frame["cohort"] != "c3") | (frame["method"] != "greedy")]
    figure = forest(frame, "method", "mean")
    assert len(figure.axes) == 1
    assert (2.0, 3.0, False) in dots(figure.axes[0])
    assert "greedy (12 of 13)" in texts(figure)
    assert "means over 13 settings of cohort" in texts(figure)


def test_incomplete_levels_have_a_star(board, texts):
    frame = board()
    frame["complete"] = frame["method"] != "ties"
    text = texts(forest(frame, "method", "mean"))
    assert "ties*" in text
    assert "fisher*" not in text
    assert "*: has no value in some cells" in text


def test_without_reference_it_says_so(board, texts):
    assert "no reference" in texts(forest(board().assign(difference=np.nan), "method", None))
    assert "Nothing to compare with mean" in texts(forest(board(("mean",)), "method", "mean"))


def test_order_of_rows_changes_nothing(board, shuffled):
    frame = board(("mean", "greedy"), strata=("b", "a"))
    assert render(forest(frame, "method", "mean"), "svg") == render(
        forest(shuffled(frame), "method", "mean"), "svg"
    )


def test_it_draws_a_leaderboard():
    """Two seeds and sites; greedy is 5 points above mean in every cell."""
    table = pd.DataFrame(
        {
            "status": "done", "cohort": "blood", "method": method, "seed": seed, "site": site,
            "stream": "iid", "shift": "none", "severity": 0,
            "accuracy": 0.7 + 0.05 * (method == "greedy") + 0.01 * seed,
        }
        for method in ("mean", "greedy") for seed in (0, 1) for site in ("a", "b")
    )  # fmt: skip
    found = leaderboard(table, "method", "mean", within=("cohort",))
    assert dots(forest(found, "method", "mean").axes[0])[0][0] == 5.0
    assert "+5.0 points of accuracy" in describe_forest(found, "method", "mean").title
