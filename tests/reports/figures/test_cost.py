"""Dots, front and scale of the cost figure are those of the leaderboard."""

from __future__ import annotations

import numpy as np
import pytest

from fedmerge.reports.figures import cost, describe_cost, render


def dots(axes):
    return {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
        for line in axes.lines
        if line.get_marker() != "None"
    }


def front(axes):
    return list(zip(axes.lines[0].get_xdata(), np.round(axes.lines[0].get_ydata(), 6), strict=True))


@pytest.mark.filterwarnings("error")
def test_every_case_is_neat(board, case, width, neat):
    neat(cost(board(**case), "method", "seconds", width), width)


@pytest.mark.filterwarnings("error")
def test_one_seed_and_one_level(board, width, neat):
    neat(cost(board(("mean",), half=np.nan), "method", width=width), width)


def test_dots_are_cost_and_mean_in_per_cent(board):
    """Level i: 1 + i passes and 60 + 2 i %; each costs more and is better, so all are on the front."""
    axes = cost(board(), "method").axes[0]
    expected = [(1.0 + i, 60.0 + 2 * i) for i in range(5)]
    assert dots(axes) == set(expected)
    assert front(axes) == expected
    assert axes.get_xscale() == "linear"


def test_front_leaves_out_what_is_beaten(board):
    """greedy costs as much as mean and is better; fisher costs more than greedy and is worse."""
    frame = board(("mean", "greedy", "fisher")).assign(forward_passes=[1.0, 1.0, 3.0], mean=[0.6, 0.7, 0.65])
    assert front(cost(frame, "method").axes[0]) == [(1.0, 70.0)]
    assert "nothing beats greedy" in describe_cost(frame, "method").detail


def test_front_of_calibration_error_goes_down(board):
    frame = board(("mean", "greedy", "fisher")).assign(forward_passes=[1.0, 2.0, 3.0], mean=[0.3, 0.4, 0.2])
    assert front(cost(frame, "method", metric="ece").axes[0]) == [(1.0, 30.0), (3.0, 20.0)]
    assert describe_cost(frame, "method", metric="ece").title.startswith("fisher has the best calibration")


@pytest.mark.parametrize(("most", "scale"), [(10.0, "linear"), (10.1, "log")])
def test_wide_spans_are_logarithmic(board, most, scale):
    frame = board(("mean", "greedy")).assign(forward_passes=[1.0, most])
    assert cost(frame, "method").axes[0].get_xscale() == scale


def test_a_cost_of_zero_is_drawn_left_of_a_logarithm(board):
    frame = board(("mean", "greedy", "fisher")).assign(backward_passes=[0.0, 1.0, 20.0])
    axes = cost(frame, "method", "backward_passes").axes[0]
    assert axes.get_xscale() == "symlog"
    assert {x for x, _ in dots(axes)} == {0.0, 1.0, 20.0}
    assert axes.get_xlim()[0] < 0


def test_few_names_stand_at_their_dots_and_many_in_the_legend(board):
    few, many = (
        cost(board(levels), "method") for levels in (("mean", "greedy"), [f"m{i}" for i in range(9)])
    )
    assert [text.get_text() for text in few.axes[0].texts] == ["greedy", "mean"]
    assert not few.legends
    assert not many.axes[0].texts
    assert len(many.legends[0].get_texts()) == 9


def test_names_that_would_touch_go_to_the_legend(board):
    """Eight dots at one place have room for fewer than eight names around them."""
    frame = board([f"method-number-{i}" for i in range(8)]).assign(forward_passes=1.0, mean=0.6)
    figure = cost(frame, "method")
    assert not figure.axes[0].texts
    assert len(figure.legends[0].get_texts()) == 8


def test_words_hold_the_numbers(board):
    caption = describe_cost(board(), "method")
    assert caption.title == (
        "entropy-adaptive has the best accuracy, 68.0\u00a0%, for 5 forward passes a prediction; "
        "mean has 60.0\u00a0% for 1"
    )
    assert "greedy 62.0\u00a0% for 2" in caption.detail


def test_best_and_cheapest_at_once(board):
    title = describe_cost(board().assign(forward_passes=1.0), "method").title
    assert title.endswith("68.0\u00a0%, and nothing costs less (1 forward pass a prediction)")


def test_unmeasured_cost(board, texts):
    assert "No gpu hours were measured" in texts(cost(board(), "method", "gpu_hours"))
    assert "No seconds" in texts(cost(board().assign(seconds=np.nan), "method", "seconds"))


def test_order_of_rows_changes_nothing(board, shuffled):
    frame = board()
    first, second = (render(cost(rows, "method", "seconds"), "svg") for rows in (frame, shuffled(frame)))
    assert first == second
