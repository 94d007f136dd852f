"""Two folders compared: differences by hand, what only one has, and what was configured otherwise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.workflows.comparing import compare

CONFIG = {"name": "a", "training": {"rounds": 3}, "fusion": [{"method": "mean", "label": "mean"}]}


def row(method: str, seed: int, accuracy: float, severity: int = 0, **more: object) -> dict:
    return {
        "seed": seed, "site": "hill", "stream": "iid", "severity": severity, "method": method,
        "accuracy": accuracy, "balanced_accuracy": accuracy, "n": 100, "largest_class": 0.1,
        "classes_present": 10,
        **more,
    }  # fmt: skip


def run_in(folder: Path, rows: list[dict], config: dict = CONFIG, kind: str = "config.yaml") -> Path:
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    (folder / kind).write_text(yaml.safe_dump(config))
    (folder / "provenance.json").write_text(json.dumps({"device": "cpu (CPU)", "threads": 1}))
    return folder


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    first = [row("mean", 0, 0.5), row("mean", 1, 0.6), row("kf", 0, 0.4), row("mean", 0, 0.1, severity=3)]
    second = [row("mean", 0, 0.6), row("mean", 1, 0.66), row("mean", 2, 0.9), row("hf", 0, 0.4)]
    changed = CONFIG | {"training": {"rounds": 5}}
    return run_in(tmp_path / "one", first), run_in(tmp_path / "two", second, changed)


def test_pairs_are_of_seed_site_and_stream_and_the_interval_is_students(two):
    """Differences 0.10 and 0.06: mean 0.08, half-width t(0.975, 1) = 12.706 times the error 0.02."""
    found = compare(*two)
    (pair,) = found.pairs
    assert (pair.method, pair.wins, pair.losses, pair.ties) == ("mean", 2, 0, 0)
    assert (pair.first, pair.second, pair.difference) == pytest.approx((0.55, 0.63, 0.08))
    assert (pair.low, pair.high) == pytest.approx((0.08 - 12.7062 * 0.02, 0.08 + 12.7062 * 0.02), abs=1e-4)
    assert found.left_out == 1  # seed 2
    assert found.only == (("kf",), ("hf",))
    assert found.settings == (("training.rounds", 3, 5),)


def test_one_seed_has_a_difference_and_no_interval(tmp_path):
    one = run_in(tmp_path / "one", [row("mean", 0, 0.5)])
    two = run_in(tmp_path / "two", [row("mean", 0, 0.45)])
    found = compare(one, two)
    assert found.pairs[0].difference == pytest.approx(-0.05)
    assert math.isnan(found.pairs[0].low)
    assert found.settings == ()
    printed = CliRunner().invoke(app, ["compare", str(one), str(two)]).output
    assert "-5" in printed
    assert "the configurations are the same" in printed
    told = json.loads(CliRunner().invoke(app, ["compare", str(one), str(two), "--json"]).stdout)
    assert told["pairs"][0]["low"] is None


def test_variants_of_a_study_are_told_apart_by_their_levels(tmp_path):
    config = {"name": "s", "base": "quickstart", "axes": {"rounds": {"few": {}, "many": {}}}}
    rows = [
        row("mean", 0, 0.5, status="done", rounds="few"),
        row("mean", 0, 0.7, status="done", rounds="many"),
    ]
    more = [
        row("mean", 0, 0.6, status="done", rounds="few"),
        row("mean", 0, 0.7, status="failed", rounds="many"),
    ]
    found = compare(
        run_in(tmp_path / "one", rows, config, "study.yaml"),
        run_in(tmp_path / "two", more, config, "study.yaml"),
    )
    assert [(pair.method, round(pair.difference, 9)) for pair in found.pairs] == [("mean (few)", 0.1)]
    assert found.only == (("mean (many)",), ())


def test_what_cannot_be_paired_is_a_sentence(two, tmp_path):
    study = run_in(tmp_path / "study", [row("mean", 0, 0.5)], {"name": "s"}, "study.yaml")
    other = run_in(tmp_path / "other", [row("mean", 7, 0.5)])
    with refused("run", "study"):
        compare(two[0], study)
    with refused("share no method", "seed"):
        compare(two[0], other)
    with refused("neither a run nor a study", "nowhere"):
        compare(two[0], tmp_path / "nowhere")
