"""Depth with batch norm, and ResNets compressed: margins by hand, and each study small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies.papers import cells, compression_claims, depths_claims, neurons, rethinking
from benchmarks.studies.papers.cells import Row
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.networks import SMALL, Workshop


def rows_of(name: str, part: str, values: list[tuple[str, float, float]]) -> Rows:
    """Rows of one setting and seed: case, x, value."""
    rows = Rows(Path("nowhere"))
    rows._read[name] = pd.DataFrame([
        {"part": part, "setting": "s", "seed": 0, "case": case, "metric": "accuracy", "x": x, "value": value}
        for case, x, value in values
    ])  # fmt: skip
    return rows


def test_a_gap_that_grows_by_two_points_in_ten_layers_has_a_slope_of_two() -> None:
    """Leads of 0.01 + 0.002 x layers; the accuracies themselves go up and down. A point is added. Of the mean
    with norms measured anew the lead is 0.05 at every depth: a slope of zero."""
    accuracy = {4.0: 0.3, 9.0: 0.7, 14.0: 0.2, 17.0: 0.9}
    values = []
    for x, value in accuracy.items():
        values.append((depths_claims.ENSEMBLE, x, value))
        values.append((depths_claims.MEAN, x, value - 0.01 - 0.002 * x))
        values.append((depths_claims.ANEW, x, value - 0.05))
    rows = rows_of("rethinking", "depth", values)
    assert depths_claims.slope(depths_claims.MEAN)(rows)["value"].tolist() == pytest.approx([0.02 + 0.01])
    assert depths_claims.slope(depths_claims.ANEW)(rows)["value"].tolist() == pytest.approx([0.01])


def test_a_depth_that_is_missing_leaves_its_seed_out() -> None:
    values = [(case, x, 0.5) for case in (depths_claims.ENSEMBLE, depths_claims.MEAN) for x in (4.0, 9.0)]
    rows = rows_of("rethinking", "depth", values)
    more = rows._read["rethinking"].query("x == 4").assign(seed=1)
    rows._read["rethinking"] = pd.concat([rows._read["rethinking"], more])
    assert depths_claims.slope(depths_claims.MEAN)(rows)["seed"].tolist() == [0]


def test_twice_the_accuracy_is_what_is_asked() -> None:
    """0.5 is 0.1 above twice 0.2, and 0.3 above it once."""
    rows = rows_of("neuron-interpolation", "compressed", [("kf", np.nan, 0.5), ("distill", np.nan, 0.2)])
    for factor, wanted in ((2.0, 0.1), (1.0, 0.3)):
        margin = compression_claims.times("kf", "distill", factor)
        assert margin(rows)["value"].tolist() == pytest.approx([wanted])


def test_rows_that_are_added_take_the_place_of_their_own_and_leave_the_others(tmp_path: Path) -> None:
    path = tmp_path / "papers-x.csv"
    cells.save([Row("a", "s, t", 0, "c", "m", 0.25, 4), Row("b", "s, t", 0, "c", "m", 0.5)], path)
    cells.add([Row("a", "s, t", 0, "c", "m", 0.75, 4), Row("a", "s, t", 0, "c", "m", 1, 9)], path)
    frame = cells.read(path)
    assert frame["value"].tolist() == [0.5, 0.75, 1]
    assert frame["x"].fillna(-1).tolist() == [-1, 4, 9]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the place of digits and of the start's photographs."""
    draws = np.random.default_rng(0)
    for name, classes in (("digits_usps", 10), ("tinyimagenet100_32", 100)):
        given = {}
        for part, count in (("train", 200), ("val", 120), ("test", 120)):
            given[f"{part}_images"] = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            given[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
        np.savez(tmp_path / f"{name}.npz", **given)
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))


@pytest.mark.usefixtures("digits")
def test_small_studies_have_the_rows_of_their_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what, value in {
        "rethinking.depths.NORMED": ("small-cnn", "vgg11"),
        "rethinking.depths.KINDS": {"own heads": (True, {"epochs": 2}, ("digits",))},
        "neurons.compression.SETTINGS": (("digits", "two parents"),),
        "neurons.compression.WIDE": 4, "neurons.compression.NARROW": 2,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"benchmarks.studies.papers.{what}", value)
    shop = Workshop(tmp_path / "work", SMALL)
    for study, name, word in (
        (rethinking, "rethinking", "depth-"), (neurons, "neuron-interpolation", "digits-two-parents"),
    ):  # fmt: skip
        some = [each for each in study.cells(shop, 1) if word in each.name]
        rows = cells.computed(some, tmp_path / name, lambda line: None)
        cells.save(rows, tmp_path / f"papers-{name}.csv")
    found = Rows(tmp_path)
    for claim in (*depths_claims.CLAIMS, *compression_claims.CLAIMS):
        assert claim.margin is not None
        margin = claim.margin(found)
        assert len(margin) == 1, claim.says
        assert margin["value"].between(-2, 2).all(), claim.says
