"""Numbers in sentences read as people write them, and the sentence of a run is decided by one."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from fedmerge.analysis.diagnosis import why
from fedmerge.analysis.diagnosis.words import degrees, points, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.31, "31 points"),
        (0.01, "1 point"),
        (0.004, "0.4 points"),
        (-0.0, "0 points"),
        (-0.021, "−2.1 points"),
    ],
)
def test_points(value: float, text: str) -> None:
    assert points(value) == text


def test_degrees_and_shares() -> None:
    assert degrees(84.4) == "84 degrees"
    assert degrees(6.44) == "6.4 degrees"
    assert "unknown" in degrees(math.nan)
    assert share(0.577) == "58\u00a0%"


@pytest.mark.parametrize(
    ("lost", "said"),
    [(0.0, "can work"), (0.019, "can work"), (0.05, "costs a little"), (0.31, "cannot work")],
)
def test_what_the_worst_path_loses_decides(lost: float, said: str) -> None:
    pairs = pd.DataFrame({"part": ["encoder", "head"], "first": "a", "second": "b", "angle": [3.0, 84.0]})
    parts = pd.DataFrame({"part": ["encoder", "head"], "retained": [0.99, 0.74]})
    paths = pd.DataFrame([
        {"first": "a", "second": "b", "end": "model", "norms": "kept", "lost": lost},
        {"first": "a", "second": "mean", "end": "mean", "norms": "kept", "lost": 0.9},
        {"first": "a", "second": "b", "end": "model", "norms": "anew", "lost": 0.0},
    ]).assign(ends=0.8, commonest=0.5)  # fmt: skip
    assert "says nothing" in why(pairs, parts, paths.assign(ends=0.5))
    sentence = why(pairs, parts, paths)
    assert said in sentence
    assert "84 degrees" in sentence
    assert points(lost) in sentence
