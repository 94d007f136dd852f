"""Numbers in sentences read as people write them."""

from __future__ import annotations

import math

import pytest

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
