"""Angles, drift and what a mean keeps follow from the weights by hand."""

from __future__ import annotations

import math

import pytest
import torch
from facts import refused
from torch import nn

from fedmerge.analysis.diagnosis import Subject, diagnose, drift, why
from fedmerge.analysis.diagnosis.drift import angles


def linear(*columns: float) -> nn.Module:
    """Two layers of weights (1 x 4) each: an encoder that is fixed, and a head with these numbers."""
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor(columns)[:, None])
    return net.eval()


def found(*models: nn.Module, start: nn.Module | None = None):
    named = {f"m{i}": model for i, model in enumerate(models)}
    return drift.drift(Subject.of(named, start=start, head="1"))


def test_orthogonal_steps_from_the_start_are_ninety_degrees_apart() -> None:
    start = linear(1, 1, 1, 1)
    parts = found(linear(2, 1, 1, 1), linear(1, 4, 1, 1), linear(1, 1, 1, 0), start=start).frame
    head = parts.set_index("part").loc["head"]
    assert head["task_angle"] == pytest.approx(90)
    assert head["angle"] < 60
    assert head["scale"] == pytest.approx((1 + 3 + 1) / 3 / 2)  # steps of 1, 3, 1 from a start of length 2


def test_the_mean_of_m_orthogonal_heads_of_one_length_keeps_one_over_the_root_of_m() -> None:
    parts = found(linear(1, 0, 0, 0), linear(0, 1, 0, 0), linear(0, 0, 1, 0)).frame.set_index("part")
    assert parts.loc["head", "angle"] == pytest.approx(90)
    assert parts.loc["head", "retained"] == pytest.approx(1 / math.sqrt(3))
    assert parts.loc["encoder", "retained"] == pytest.approx(1)
    assert math.isnan(parts.loc["head", "task_angle"])


def test_the_mean_of_equal_models_keeps_everything() -> None:
    finding = found(linear(1, 2, 3, 4), linear(1, 2, 3, 4), start=linear(0, 1, 0, 0))
    for row in finding.tables["layers"].to_dict("records"):
        assert row["angle"] == pytest.approx(0, abs=1e-5)
        assert row["retained"] == pytest.approx(1)
    assert finding.tables["hospitals"].query("part == 'head'")["directional"].tolist() == pytest.approx(
        [0, 0]
    )


def test_opposite_steps_have_no_common_direction() -> None:
    hospitals = found(linear(2, 0, 0, 0), linear(0, 2, 0, 0), start=linear(1, 1, 0, 0)).tables["hospitals"]
    assert angles(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))[0, 1] == pytest.approx(180)
    assert hospitals.query("part == 'head'")["directional"].isna().all()  # the mean of the steps is zero


def test_the_sentence_names_the_two_heads_that_are_furthest_apart_and_what_the_mean_keeps() -> None:
    finding = found(linear(1, 0, 0, 0), linear(1, 0.1, 0, 0), linear(0, 1, 0, 0))
    assert finding.number == pytest.approx(90)
    assert "m0 and m2 are 90 degrees" in finding.sentence
    assert "weakens" in why({"drift": finding})
    assert "keeps the head" in why({"drift": found(linear(1, 0, 0, 0), linear(1, 0.1, 0, 0))})


def test_what_cannot_be_compared_is_refused() -> None:
    broken = linear(1, 2, 3, math.nan)
    with refused("1.weight", "m1", "NaN"):
        found(linear(1, 2, 3, 4), broken)
    with refused("1 model", "two"):
        Subject.of({"only": linear(1, 2, 3, 4)})
    with refused("3", "labels", "2 images"):
        Subject.of({"a": broken, "b": broken}, torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))


def test_an_analysis_that_lacks_something_says_so_and_the_others_go_on() -> None:
    subject = Subject.of({"a": linear(1, 2, 3, 4), "b": linear(4, 3, 2, 1)}, head="1")
    findings, left = diagnose(subject, ["drift", "heads"])
    assert list(findings) == ["drift"]
    assert list(left) == ["heads"]
    assert "images" in left["heads"]
    with refused("landscap", "landscape"):
        diagnose(subject, ["landscap"])
    with refused("grids", "grid"):
        diagnose(subject, ["landscape"], {"landscape": {"grids": 3}})
