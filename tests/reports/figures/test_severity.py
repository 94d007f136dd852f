"""Lines and bands are those of the severity curve."""

from __future__ import annotations

import numpy as np
import pytest

from fedmerge.reports.figures import describe_severity, render, severity


@pytest.mark.filterwarnings("error")
def test_every_case_is_neat(curve, case, width, neat):
    neat(severity(curve(**case), "method", "balanced_accuracy", width), width)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("severities", [[0], [0, 3, 5]])
def test_one_seed_and_few_severities(curve, width, neat, severities):
    frame = curve(half=np.nan)
    neat(severity(frame[frame["severity"].isin(severities)], "method", width=width), width)


def test_lines_are_means_in_per_cent_and_bands_their_bounds(curve):
    """mean: 90, 89, ... 85 %, with a band of +- 1 point."""
    axes = severity(curve(("mean",)), "method").axes[0]
    assert np.allclose(axes.lines[0].get_xydata(), [[s, 90 - s] for s in range(6)])
    corners = {(round(x, 6), round(y, 6)) for x, y in axes.collections[0].get_paths()[0].vertices}
    assert corners == {(s, 90.0 - s + half) for s in range(6) for half in (-1, 1)}


def test_of_many_the_best_seven_are_in_colour(curve):
    """m0 falls least, so m0 to m6 are best on average; of 30 levels 23 are grey."""
    figure = severity(curve([f"m{i}" for i in range(30)]), "method")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(f"m{i}" for i in range(7)), "23 others"]
    assert len(figure.axes[0].lines) == 30
    assert len(figure.axes[0].collections) == 7


def test_panels_share_their_range(curve):
    axes = severity(curve(strata=("a", "b")), "method").axes
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_words_hold_the_numbers(curve):
    """mean loses 5 x 1 points from 90 to 85 %, entropy-adaptive 5 x 5."""
    caption = describe_severity(curve(), "method")
    assert caption.title == (
        "mean is best of 5 methods: 85.0\u00a0% balanced accuracy at severity 5, 90.0\u00a0% without shift; "
        "entropy-adaptive 65.0\u00a0%, 90.0\u00a0% without shift"
    )
    assert "greedy: 90.0\u00a0%, 88.0\u00a0%, 86.0\u00a0%" in caption.detail


def test_of_errors_the_lowest_is_best(curve):
    assert describe_severity(curve(), "training", "ece").title.startswith(
        "entropy-adaptive is best of 5 levels of training: 65.0\u00a0% "
    )


def test_without_curve(curve, texts):
    assert "No balanced accuracy under shift" in texts(severity(curve().assign(mean=np.nan), "method"))


def test_order_of_rows_changes_nothing(curve, shuffled):
    frame = curve(("mean", "greedy"), strata=("b", "a"))
    assert render(severity(frame, "method"), "svg") == render(severity(shuffled(frame), "method"), "svg")
