from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fedmerge.analysis import robustness, severity_curve
from tests.facts import refused

SHIFTS = [("none", 0), *((kind, severity) for kind in ("blur", "noise") for severity in range(1, 6))]
LOSS = {"mean": 0.05, "greedy": 0.02}
"""Lost per severity, blur; noise costs half."""


def score(method, severity, shift, seed, site, **_):
    return (
        0.9
        - LOSS[method] * severity * (0.5 if shift == "noise" else 1)
        + 0.01 * seed
        - 0.02 * (site == "lake")
    )


def test_the_score_falls_with_severity(make_table):
    """At severity k it is 0.9 - 0.75 loss k (mean of blur and noise), + 0.005 (seeds) - 0.01 (sites)."""
    curve = severity_curve(make_table(score, shifts=SHIFTS), "method")
    assert list(curve.columns) == ["level", "severity", "mean", "low", "high"]
    for level, loss in LOSS.items():
        part = curve[curve["level"] == level]
        assert part["severity"].tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(part["mean"], [0.895 - 0.75 * loss * k for k in range(6)])
        # two sites 0.02 apart decide: half is t(1) 0.01, on the scale of log-odds
        mean = part["mean"]
        for side, bound in ((-1, "low"), (1, "high")):
            odds = mean / (1 - mean) * np.exp(side * 0.127062 / (mean * (1 - mean)))
            np.testing.assert_allclose(part[bound], odds / (1 + odds), rtol=1e-5)


def test_severity_zero_is_taken_where_the_shifts_are(make_table):
    """Only iid is shifted; the temporal stream's clean score of 0 must not bend the curve."""
    table = make_table(score, shifts=SHIFTS, streams=["iid"])
    other = make_table(lambda **_: 0.0, streams=["temporal"])
    curve = severity_curve(pd.concat([table, other]), "method")
    assert curve.loc[curve["severity"] == 0, "mean"].tolist() == pytest.approx([0.895, 0.895])
    board = robustness(pd.concat([table, other]))
    assert board["clean_error"].tolist() == pytest.approx([0.105, 0.105])


def test_robustness_by_hand(make_table):
    """Clean error 0.105. Shifted: + 0.75 loss * 3 (mean severity): 0.2175 and 0.15."""
    board = robustness(make_table(score, shifts=SHIFTS), reference="mean").set_index("level")
    np.testing.assert_allclose(board["clean_error"], [0.105, 0.105])
    np.testing.assert_allclose(board["shifted_error"], [0.2175, 0.15])
    np.testing.assert_allclose(board["increase"], [0.1125, 0.045])
    np.testing.assert_allclose(board["increase_low"], board["increase"], atol=1e-9)  # the same in every cell
    np.testing.assert_allclose(board["increase_high"], board["increase"], atol=1e-9)
    relative = board[["relative_error", "relative_error_low", "relative_error_high"]]
    np.testing.assert_allclose(relative.loc["mean"], 1)
    assert relative.loc["greedy", "relative_error"] == pytest.approx(0.15 / 0.2175)
    # errors of both are 0.02 higher at lake: numerator - r denominator differs by 0.02 (1 - r) of two sites
    ratio = 0.15 / 0.2175
    half = 12.7062 * 0.01 * (1 - ratio) / 0.2175  # of the ratio; of its logarithm half / ratio
    low, high = ratio * math.exp(-half / ratio), ratio * math.exp(half / ratio)
    assert relative.loc["greedy", "relative_error_low"] == pytest.approx(low, rel=1e-5)
    assert relative.loc["greedy", "relative_error_high"] == pytest.approx(high, rel=1e-5)


def test_relative_error_compares_what_both_have(make_table):
    """Greedy fails under all blur: its noise errors are divided by the reference's noise errors."""
    table = make_table(score, shifts=SHIFTS)
    table.loc[(table["method"] == "greedy") & (table["shift"] == "blur"), "status"] = "failed"
    board = robustness(table, reference="mean").set_index("level")
    noise = {method: 0.105 + 0.5 * loss * 3 for method, loss in LOSS.items()}
    assert board.loc["greedy", "relative_error"] == pytest.approx(noise["greedy"] / noise["mean"])


def test_without_reference_or_shifts_it_is_nan(make_table):
    board = robustness(make_table(score, shifts=SHIFTS))
    assert board.filter(like="relative").isna().all(axis=None)
    assert board["increase"].notna().all()
    clean = robustness(make_table(score), reference="mean")
    assert clean[["shifted_error", "increase", "relative_error"]].isna().all(axis=None)
    assert severity_curve(make_table(score), "method")["severity"].tolist() == [0, 0]


def test_a_reference_without_errors_has_no_ratio(make_table):
    table = make_table(lambda method, **_: 1.0 if method == "mean" else 0.5, shifts=SHIFTS)
    assert robustness(table, reference="mean")["relative_error"].isna().all()


def test_calibration_error_is_an_error_already(make_table):
    """ece is 1 - score in these tables, so both are one error."""
    table = make_table(score, shifts=SHIFTS)
    pd.testing.assert_frame_equal(
        robustness(table, reference="mean", metric="ece"), robustness(table, reference="mean")
    )


def test_strata_stand_in_front(make_table):
    table = make_table(score, shifts=SHIFTS, training=("with", "without"), method=LOSS)
    assert list(robustness(table, within=("training",)).columns[:2]) == ["training", "level"]
    assert list(severity_curve(table, "method", within=("training",)).columns[:3]) == [
        "training",
        "level",
        "severity",
    ]


def test_an_unknown_reference_is_a_sentence(make_table):
    with refused("greedy", "gredy"):
        robustness(make_table(score, shifts=SHIFTS), reference="gredy")


def test_no_increase_is_greater_than_all_there_is(make_table):
    """Right on clean images; under shift still right at coast, wrong at lake: t(1) 0.5 = 6.4 is cut."""
    table = make_table(lambda severity, site, **_: float(severity == 0 or site == "coast"), shifts=SHIFTS)
    bounds = robustness(table)[["increase", "increase_low", "increase_high"]]
    assert bounds.loc[0].tolist() == [0.5, -1, 1]
