"""Numbers, outlines and order of the heat map are those of the frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from fedmerge.reports.figures import describe_site_scores, render, site_scores


def numbers(axes):
    return {
        (text.get_position()[1] - 0.5, text.get_position()[0] - 0.5): text.get_text() for text in axes.texts
    }


def outlined(axes):
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return {(int(patch.get_y()), int(patch.get_x())) for patch in patches}


def luminance(colour):
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


@pytest.mark.filterwarnings("error")
def test_every_case_is_neat(sites, case, width, neat):
    neat(site_scores(sites(**case), "method", width), width)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [1, 15])
def test_few_and_many_hospitals(sites, width, neat, number):
    neat(site_scores(sites(sites=[f"hospital {i}" for i in range(number)]), "method", width), width)


def test_numbers_are_per_cent_and_the_worst_is_outlined(sites):
    """Level i: 90 - i, 85 - i, 80 - i; the third hospital is the worst of all levels."""
    axes = site_scores(sites(("mean", "greedy")), "method").axes[0]
    expected = {(i, s): f"{90 - i - 5 * s:.1f}" for i, s in itertools.product(range(2), range(3))}
    assert numbers(axes) == expected
    assert outlined(axes) == {(0, 2), (1, 2)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean", "greedy"]


def test_of_calibration_errors_the_highest_is_the_worst(sites):
    """Lowest error first: greedy with 79, 84, 89 % above mean with 80, 85, 90 %."""
    axes = site_scores(sites(("mean", "greedy")), "method", metric="ece").axes[0]
    assert numbers(axes)[(0, 0)] == "79.0"
    assert numbers(axes)[(1, 2)] == "90.0"
    assert outlined(axes) == {(0, 2), (1, 2)}


def test_a_cell_without_score_is_a_dash_and_never_the_worst(sites):
    frame = sites(("mean", "greedy"))
    frame.loc[(frame["level"] == "mean") & (frame["site"] == "Sydney"), "mean"] = np.nan
    axes = site_scores(frame, "method").axes[0]
    row = [label.get_text() for label in axes.get_yticklabels()].index("mean")
    assert numbers(axes)[(row, 2)] == "–"
    assert (row, 1) in outlined(axes)


def test_hospitals_that_do_not_fit_stand_below(sites):
    """On a phone 15 hospitals need three blocks; every number is there once, and one outline a level."""
    figure = site_scores(sites(("mean", "greedy"), [f"h{i}" for i in range(15)]), "method", 3.9)
    assert len(figure.axes) == 3
    assert sum(len(axes.texts) for axes in figure.axes) == 30
    assert sum(len(outlined(axes)) for axes in figure.axes) == 2


def test_type_is_readable_on_every_cell(sites):
    """Contrast of at least 4.5 (WCAG 2, level AA)."""
    axes = site_scores(sites(), "method").axes[0]
    ink = luminance(to_rgb(axes.texts[0].get_color()))
    axes.figure.draw_without_rendering()
    cells = [luminance(colour) for colour in axes.collections[0].get_facecolors()]
    assert len(cells) == 15
    assert all((cell + 0.05) / (ink + 0.05) >= 4.5 for cell in cells)


def test_words_hold_the_numbers(sites):
    caption = describe_site_scores(sites(), "method")
    assert caption.title == (
        "Sydney is the worst hospital for 5 of 5 methods; mean keeps the most at its worst, "
        "80.0\u00a0% accuracy"
    )
    assert "greedy: worst Sydney 79.0\u00a0%, best Rotterdam 89.0\u00a0%" in caption.detail
    alone = describe_site_scores(sites(("mean",), ("Rotterdam",)), "method").title
    assert alone == "mean has 90.0\u00a0% accuracy at Rotterdam, the only hospital"


def test_without_scores(sites, texts):
    assert "No hospital has a score" in texts(site_scores(sites().assign(mean=np.nan), "method"))


def test_order_of_rows_changes_nothing(sites, shuffled):
    frame = sites(("mean", "greedy"), strata=("b", "a"))
    assert render(site_scores(frame, "method"), "svg") == render(
        site_scores(shuffled(frame), "method"), "svg"
    )
