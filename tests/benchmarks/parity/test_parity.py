"""The comparisons with formulas written out anew: small here, and they must notice a difference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from benchmarks.parity import fusion, metrics, testtime
from benchmarks.parity.agreement import compare, report

SMALL: dict[ModuleType, list[str]] = {
    fusion: ["--hidden", "8", "--images", "80"],
    testtime: ["--hidden", "12", "--batches", "3"],
    metrics: ["--images", "200"],
}


@pytest.mark.parametrize(("script", "small"), SMALL.items(), ids=["fusion", "testtime", "metrics"])
def test_our_methods_agree_with_their_formulas(
    script: ModuleType, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--seed", "1", *small]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "largest", "difference", "tolerance"]
    assert len(lines) >= 6
    assert not any("above" in line for line in lines)


def test_a_formula_that_is_another_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output layer that counts all parents alike, whatever their importance: what was wrong here once."""
    right = fusion.formulas.conductance

    def flat_head(*args: object) -> list[np.ndarray]:
        hidden, head = right(*args)
        return [hidden, np.ones_like(head)]

    monkeypatch.setattr(fusion.formulas, "conductance", flat_head)
    assert fusion.main(["--seed", "1", *SMALL[fusion]]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.endswith("above")]
    assert {line.split(",")[0] for line in wrong} == {"hf", "rebasin", "kf", "kf-gradient"}
    assert all("conductance" in line for line in wrong)


def test_what_cannot_be_compared_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [compare("shapes", [1.0], [1.0, 2.0]), compare("numbers", [np.nan], [1.0])]
    assert [row.difference for row in rows] == [np.inf, np.inf]
    assert compare("half", [1.5, 4.0], [2.0, 4.0]) == ("half", 0.125, 1e-9)
    assert report([compare("same", [2.0], [2.0])]) == 0
    assert report(rows) == 1
