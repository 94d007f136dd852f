"""The site's page of each method: from the registry and the kept scores, so nothing on it can be old."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import yaml

import fedmerge
from benchmarks import RESULTS
from benchmarks.method_pages import as_entry, method_pages, page_name
from benchmarks.studies.standing import entries, standings
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.schema.faults import faults_of

KEYS = ["seed", "site", "stream"]
STUDY = """
name: bench-small
base:
  fusion: [mean, {method: kf, label: kf-paper, towards: zero}]
  testtime: [{method: stream-adaptive, label: calm, coefficients: {temperature: .inf}}]
axes:
  batch: {"64": {}, "1": {fusion: [mean, greedy, a-plug-in-s-own]}}
reference: mean
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return dict(method_pages())


def test_every_method_has_a_page_with_its_needs_options_and_standing(pages):
    known = fedmerge.methods()
    assert set(pages) == {page_name(method) for method in known} | {"index"}
    for method in known:
        page = pages[page_name(method)]
        for heading in ("Equation and source", "Needs", "Options", "Cost", "Where it stood in our studies"):
            assert f"\n## {heading}\n" in page
        for option in method.options.model_fields:
            assert f"| `{option}" in page
        assert f"({page_name(method)}.md)" in pages["index"]


def test_the_yaml_of_a_page_is_accepted_by_an_experiment():
    base = {"name": "x", "cohort": "digits-scanners", "model": "small-cnn", "training": {"rounds": 1}}
    for method in fedmerge.methods():
        asked = yaml.safe_load(as_entry(method))
        sections = {
            "fusion": ["mean"],
            "evaluation": {"streams": ["iid"]},
            "fusion_data": {"from": "union", "images": 20},
        }
        _, faults = faults_of(Experiment, base | sections | asked)
        assert not faults, (method.name, [fault.sentences for fault in faults])


def test_a_page_s_difference_is_the_mean_of_the_kept_scores(pages):
    """Stream-adaptive on the digits: every seed, site and stream counts alike, as all cells are there."""
    rows = pd.read_csv(RESULTS / "bench-testtime-digits.csv")
    scores = {name: part.set_index(KEYS)["balanced_accuracy"] for name, part in rows.groupby("method")}
    apart = (scores["stream-adaptive"] - scores["mean"]).to_numpy()
    found = next(
        line
        for line in standings()["test-time", "stream-adaptive"]
        if (line.study, line.label) == ("bench-testtime-digits", "stream-adaptive")
    )
    assert found.difference[0] == pytest.approx(apart.mean(), abs=1e-9)
    assert (found.wins, found.losses) == ((apart > 0).sum(), (apart < 0).sum())
    assert f"{100 * apart.mean():+.1f} (" in pages["test-time-stream-adaptive"]


def test_a_new_study_is_found_by_its_rows_and_its_labels_lead_to_methods(tmp_path):
    """Levels of the batch size are told apart; a hospital alone and an unknown label are no method."""
    (tmp_path / "bench-small.yaml").write_text(STUDY)
    assert entries(yaml.safe_load(STUDY)) == {
        "mean": ("fusion", "mean"),
        "kf-paper": ("fusion", "kf"),
        "calm": ("test-time", "stream-adaptive"),
        "greedy": ("fusion", "greedy"),
    }
    rng = np.random.default_rng(0)
    rows = [
        {"seed": seed, "site": site, "batch": batch, "method": name, "balanced_accuracy": rng.random()}
        for seed in range(3)
        for site in ("a", "b")
        for batch in (64, 1)
        for name in ("mean", "kf-paper", "calm", "alone:b", "nobody-knows")
    ]
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "unseen-small.csv", index=False)
    (tmp_path / "bench-other.csv").write_text("seed,setting,accuracy\n0,a,1\n")  # compares no methods
    (tmp_path / "bench-small.yaml").write_text(STUDY.replace("bench-small", "bench-unseen-small"))
    found = standings(tmp_path, tmp_path)
    assert set(found) == {("fusion", "mean"), ("fusion", "kf"), ("test-time", "stream-adaptive")}
    assert [line.where for line in found["fusion", "kf"]] == ["batch 64", "batch 1"]
    for line in found["fusion", "kf"]:
        part = table[table["batch"] == int(line.where.split()[1])]
        mean, own = (
            part[part["method"] == name].set_index(["seed", "site"])["balanced_accuracy"]
            for name in ("mean", "kf-paper")
        )
        assert line.score == pytest.approx(own.mean())
        assert line.difference[0] == pytest.approx((own - mean).mean())
        better = sum(
            part[part["method"] == name]["balanced_accuracy"].mean() > own.mean() for name in ("mean", "calm")
        )
        assert (line.place, line.of) == (1 + better, 3)
        assert math.isnan(line.passes)
