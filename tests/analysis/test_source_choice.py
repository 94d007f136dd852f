from __future__ import annotations

import math

import pandas as pd
import pytest

from fedmerge.analysis.source_choice import source_choice
from tests.facts import refused

WHERE = {"seed": 0, "site": "new", "stream": "iid"}


def coefficients(**shares: float) -> pd.DataFrame:
    """Two batches whose coefficients have these means."""
    rows = [
        WHERE | {"method": "m", "batch": batch, "source": source, "encoder": share + sign * 0.1}
        for batch, sign in ((0, 1), (1, -1))
        for source, share in shares.items()
    ]
    return pd.DataFrame(rows)


def alone(**scores: float) -> pd.DataFrame:
    rows = [WHERE | {"method": f"alone:{s}", "balanced_accuracy": v} for s, v in scores.items()]
    return pd.DataFrame([*rows, WHERE | {"method": "m", "balanced_accuracy": 0.9}])


def test_ranks_gain_and_regret_by_hand() -> None:
    """Drawn by .5, .3, .2 from .4, .8, .6: .2 + .24 + .12 = .56, against .6 evenly and .8 at best."""
    (row,) = source_choice(coefficients(a=0.5, b=0.3, c=0.2), alone(a=0.4, b=0.8, c=0.6)).to_dict("records")
    assert row["sources"] == 3
    assert row["correlation"] == pytest.approx(-0.5)  # ranks 3 2 1 against 1 3 2
    assert row["gain"] == pytest.approx(-0.04)
    assert row["regret"] == pytest.approx(0.24)


def test_equal_coefficients_choose_nothing() -> None:
    (row,) = source_choice(coefficients(a=0.5, b=0.5), alone(a=0.4, b=0.8)).to_dict("records")
    assert math.isnan(row["correlation"])
    assert row["gain"] == pytest.approx(0)


def test_levels_of_an_axis_are_cells_of_their_own() -> None:
    tables = [
        (coefficients(a=share, b=1 - share).assign(size=size), alone(a=0.4, b=0.8).assign(size=size))
        for size, share in (("64", 0.75), ("1", 0.25))
    ]
    both = [pd.concat(frames) for frames in zip(*tables, strict=True)]
    found = source_choice(both[0], both[1], within=["size"]).set_index("size")
    assert found["correlation"].to_dict() == {"64": pytest.approx(-1), "1": pytest.approx(1)}


def test_without_the_hospitals_alone_there_is_nothing_to_compare_with() -> None:
    with refused("alone", "references"):
        source_choice(coefficients(a=1.0), alone())
    with refused("encoder"):
        source_choice(coefficients(a=1.0).drop(columns="encoder"), alone(a=0.5))
