"""The claims on the peak over the factor and on Theorem 1, on rows made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.studies.papers import claims, theorem_claims
from benchmarks.studies.papers.claims import Claim, Rows, decide
from benchmarks.studies.papers.theorem_figures import overflow_factors


def rows_of(records: list[dict[str, object]]) -> Rows:
    """Rows of the study, with numbers in the columns that a record leaves out."""
    rows = Rows(Path("nowhere"))
    rows._read["rethinking"] = pd.DataFrame([{"y": float("nan"), **each} for each in records])
    return rows


def scan(leads: Mapping[float, float], finite: Mapping[float, float] | None = None, seed: int = 0) -> list:
    """A scan in which the soup has the given leads over an ensemble of 10 % accuracy."""
    found = []
    for factor, lead in leads.items():
        about = {"part": "magnified", "setting": "digits vgg19-plain", "seed": seed, "x": factor}
        for case, value in (("mean float32", 0.1 + lead), ("ensemble float32", 0.1)):
            found.append({**about, "case": case, "metric": "accuracy", "value": value})
        share = (finite or {}).get(factor, 1.0)
        found.append({**about, "case": "ensemble float32", "metric": "finite", "value": share})
    return found


def test_a_peak_is_the_greatest_lead_there_less_the_greatest_elsewhere() -> None:
    """Seed 0: 0.3 at 105 against 0.2 at 115. Seed 1: 0.0 against 0.25 at 170."""
    here = scan({1.0: 0.0, 95.0: 0.1, 100.0: 0.2, 105.0: 0.3, 110.0: 0.1, 115.0: 0.2})
    there = scan({1.0: 0.0, 95.0: 0.0, 100.0: 0.0, 105.0: 0.0, 110.0: 0.0, 170.0: 0.25}, seed=1)
    found = theorem_claims.peak("float32")(rows_of(here + there))
    assert found["seed"].tolist() == [0, 1]
    assert found["value"].tolist() == pytest.approx([0.1, -0.25])


def test_a_lead_of_overflow_is_where_the_ensemble_overflows() -> None:
    """0.4 at 170, where a third of the answers are lost, against 0.1 at 100, where none is."""
    found = theorem_claims.overflowing(
        rows_of(scan({100.0: 0.1, 170.0: 0.4, 250.0: 0.0}, {170.0: 2 / 3, 250.0: 0.0}))
    )
    assert found["value"].tolist() == pytest.approx([0.3])


def test_the_factor_that_overflows_follows_from_one_that_does_not() -> None:
    """17 layers with a largest logit of 5 at factor 1 and no biases: 5 c^17 reaches 3.4e38."""
    row = {"part": "magnified", "setting": "digits vgg19-plain", "seed": 0, "metric": "largest", "x": 100.0}
    rows = rows_of([{**row, "case": "members float32", "value": 5 * 100.0**17}])
    (factor,) = overflow_factors(rows)
    assert 5 * factor**17 == pytest.approx(torch.finfo(torch.float32).max)


def bounded(values: Mapping[tuple[float, float], float], kind: str = "plain", **cases: float) -> Rows:
    """Rows of Theorem 1 by factor and depth; of further cases a multiple of it."""
    found = []
    for seed in range(3):
        for (factor, depth), value in values.items():
            for case, times in {"theorem": 1.0, "variance_theorem": 1.0, **cases}.items():
                found.append({
                    "part": "theorem", "setting": f"digits perceptron {kind}", "seed": seed, "case": case,
                    "metric": "value", "value": value * times, "x": factor, "y": depth,
                })  # fmt: skip
    return rows_of(found)


def verdict(margin, rows: Rows) -> claims.Decided:
    return decide(Claim("", "", "", margin, every=True), rows)


def test_a_bound_grows_where_each_step_makes_it_larger() -> None:
    """Of (lambda c)^m with lambda 2 every step grows at factors 1 and 100, none does at 0.1."""
    rows = bounded({(c, m): (2 * c) ** m for c in (0.1, 1.0, 100.0) for m in (2, 3, 4)})
    found = verdict(theorem_claims.grow, rows)
    assert (found.verdict, found.mean, found.settings) == (claims.HOLDS, 1.0, 2 * (3 + 2 * 2))
    assert verdict(theorem_claims.grown((0.1,), "y"), rows).verdict == claims.NOT
    less = {(1.0, 2): 4.0, (1.0, 3): 8.0, (1.0, 4): 7.0}
    assert verdict(theorem_claims.grown((1.0,), "y"), bounded(less)).mean == pytest.approx(0.5)


def test_a_bound_is_loose_by_its_orders_of_magnitude() -> None:
    """A bound of 1000 above an output of 1: two orders more than the one that is allowed."""
    rows = bounded({(1.0, 2): 1000.0, (100.0, 2): 1e9}, norm=1e-3)
    found = theorem_claims.loose("theorem")(rows)
    assert found["value"].tolist() == pytest.approx([-2.0] * 3)
    assert found["setting"].unique().tolist() == ["digits perceptron plain 2"]


def test_outputs_are_compared_at_the_two_ends_of_depth() -> None:
    """0.5 with 2 layers, 5 with 8: one order of magnitude."""
    rows = bounded({(1.0, 2): 0.5, (1.0, 5): 100.0, (1.0, 8): 5.0}, norm=1.0)
    assert theorem_claims.deeper(rows)["value"].tolist() == pytest.approx([1.0] * 3)


def test_a_bound_that_broke_once_does_not_always_hold() -> None:
    about = {"part": "theorem", "setting": "digits perceptron biased", "metric": "held", "x": 0.1}
    held = [
        {**about, "seed": seed, "case": "theorem", "value": value, "y": depth}
        for seed, depth, value in ((0, 2, 1.0), (0, 3, 0.5), (1, 2, 1.0), (1, 3, 1.0))
    ]
    found = verdict(theorem_claims.kept("theorem", kind="biased|-plain"), rows_of(held))
    assert (found.verdict, found.mean) == (claims.PART, pytest.approx(0.875))
    assert verdict(theorem_claims.kept("theorem", kind="perceptron plain"), rows_of(held)).seeds == 0
