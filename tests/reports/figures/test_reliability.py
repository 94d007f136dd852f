"""Lines, bars and calibration errors are those of the bins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedmerge.reports.figures import describe_reliability, reliability, render


def titles(figure):
    return [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes]


@pytest.mark.filterwarnings("error")
def test_every_case_is_neat(bins, case, width, neat):
    neat(reliability(bins(**case), width), width)


def test_ece_is_the_weighted_gap():
    """30 images 10 points too sure, 10 images 30 too unsure: (30 x 0.1 + 10 x 0.3) / 40 = 15 %."""
    frame = pd.DataFrame(
        {
            "method": "mean", "bin": [0, 1, 2], "low": [0, 1 / 3, 2 / 3], "high": [1 / 3, 2 / 3, 1],
            "n": [0, 30, 10], "confidence": [np.nan, 0.6, 0.7], "accuracy": [np.nan, 0.5, 1.0],
        }
    )  # fmt: skip
    figure = reliability(frame)
    assert titles(figure) == ["mean: ECE 15.0\u00a0%"]
    line = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert np.allclose(line.get_xydata(), [[60, 50], [70, 100]])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [75, 25]
    assert "right on 62.5\u00a0% of 40 images and 62.5\u00a0% sure" in describe_reliability(frame).detail


def test_rows_of_one_bin_are_pooled():
    """Two seeds of 10 and 30 images at confidence 0.8, right on 1.0 and 0.6: 0.7 pooled, 10 points off."""
    frame = pd.DataFrame(
        {
            "method": "mean", "bin": 0, "low": 0.0, "high": 1.0, "n": [10, 30], "confidence": 0.8,
            "accuracy": [1.0, 0.6],
        }
    )  # fmt: skip
    assert titles(reliability(frame)) == ["mean: ECE 10.0\u00a0%"]


def test_panels_go_from_best_to_worst(bins):
    """Level i is i points too sure in all bins."""
    assert titles(reliability(bins())) == [
        "mean: ECE 0.0\u00a0%", "greedy: ECE 1.0\u00a0%", "fisher: ECE 2.0\u00a0%", "ties: ECE 3.0\u00a0%",
        "entropy-adaptive: ECE 4.0\u00a0%",
    ]  # fmt: skip
    title = describe_reliability(bins()).title
    assert title.startswith(
        "mean is the best calibrated, off by 0.0\u00a0% (ECE), entropy-adaptive the worst"
    )


def test_of_many_the_three_best_and_three_worst(bins, texts):
    figure = reliability(bins([f"m{i}" for i in range(9)]))
    assert [title.split(":")[0] for title in titles(figure)] == ["m0", "m1", "m2", "m6", "m7", "m8"]
    assert "of 9 the three best and the three worst calibrated" in texts(figure)


def test_strata_are_panels_until_there_are_too_many(bins, texts):
    assert len(reliability(bins(("mean", "greedy"), [f"c{i}" for i in range(6)])).axes) == 12
    figure = reliability(bins(("mean", "greedy"), [f"c{i}" for i in range(7)]))
    assert titles(figure) == ["mean: ECE 0.0\u00a0%", "greedy: ECE 1.0\u00a0%"]
    assert "7 settings of cohort pooled" in texts(figure)


def test_without_images(bins, texts):
    assert "No reliability" in texts(reliability(bins().assign(n=0)))


def test_order_of_rows_changes_nothing(bins, shuffled):
    frame = bins(("mean", "greedy"), strata=("b", "a"))
    assert render(reliability(frame), "svg") == render(reliability(shuffled(frame)), "svg")
