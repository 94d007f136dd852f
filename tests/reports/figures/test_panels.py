"""Levels, strata and words that the figures of a study share."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from facts import refused
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.reports.figures.panels import (
    between,
    in_a_row,
    line_styles,
    means,
    natural,
    shortened,
    signed,
    tidy,
)


def test_levels_and_strata_are_found_in_columns_and_in_the_index(board):
    frame = board(strata=("b", "a"))
    by_index = frame.set_index(["cohort", "method"])
    for given_frame in (frame, by_index, frame.rename(columns={"method": "level"})):
        found = tidy(given_frame, "method")
        assert found.strata == ["a", "b"]
        assert found.levels == ["entropy-adaptive", "fisher", "greedy", "mean", "ties"]
        assert found.average == " on average over 2 settings of cohort"
    assert tidy(board(), "method").average == ""


def test_strata_of_numbers_carry_the_name_of_their_column():
    frame = pd.DataFrame({"cohort": "blood", "alpha": [0.5, 0.05], "method": "mean", "mean": 0.5})
    assert tidy(frame, "method").strata == ["blood, alpha 0.05", "blood, alpha 0.5"]


def test_a_frame_without_levels_is_an_error(board):
    with refused("training", "unknown", "column"):
        tidy(board(), "training")


def test_joined_bounds_need_all_strata(board):
    """Means over 13 strata of 60 to 72 % are 66 %; a bound that one stratum lacks is lacking."""
    frame = board(("mean",), [f"c{i}" for i in range(13)])
    assert tidy(frame, "method").rows["mean"].to_list() == pytest.approx([0.66])
    frame.loc[0, "low"] = math.nan
    row = tidy(frame, "method").rows.iloc[0]
    assert math.isnan(row["low"])
    assert row["high"] == pytest.approx(0.68)


def test_means_are_of_levels_with_as_many_strata_as_any(board):
    frame = board(("mean", "greedy"), ("a", "b"))
    rows = tidy(frame[(frame["cohort"] == "a") | (frame["method"] == "mean")], "method").rows
    assert means(rows, "mean").to_dict() == {"mean": pytest.approx(0.605)}


@pytest.mark.parametrize(
    ("number", "width", "beside"),
    [(1, 7.2, 1), (3, 7.2, 3), (4, 7.2, 2), (7, 7.2, 3), (12, 7.2, 3), (7, 3.9, 1)],
)
def test_panels_in_a_row(number, width, beside):
    assert in_a_row(number, width) == beside


def test_numbers_in_names_sort_as_numbers():
    names = ["layer10", "layer2", "alpha 0.5", "alpha 0.05"]
    assert sorted(names, key=natural) == ["alpha 0.05", "alpha 0.5", "layer2", "layer10"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.0321, "+3.2"), (-0.0321, "−3.2"), (0.0, "0.0"), (-0.0001, "0.0"), (math.nan, "–")]
)
def test_points_are_signed(share, text):
    assert signed(share) == text


def test_an_interval_needs_both_ends():
    assert between(-0.01, 0.02) == " (−1.0 to +2.0)"
    assert between(math.nan, 0.02) == ""


@given(st.text(min_size=1, max_size=50), st.integers(3, 60))
def test_shortened_names_keep_both_ends(text, length):
    short = shortened(text, length)
    assert len(short) <= length
    assert short[0] == text[0]
    assert short[-1] == text[-1]


def test_64_names_look_different():
    found = line_styles([str(i) for i in range(64)])
    assert len({(look["color"], look["marker"]) for look in found.values()}) == 64
