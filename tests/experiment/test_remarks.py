"""Remarks on the hospitals' images: in the terminal, on the page, in the result, also after a break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fedmerge import run
from fedmerge.cli.app import app
from fedmerge.cli.commands import show_result
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.interrupt import Stopped
from fedmerge.workflows import run as module
from fedmerge.workflows.bench.bench import bench
from fedmerge.workflows.bench.study import open_study
from fedmerge.workflows.rewrite import write_again

BLACK = "images of one value in every pixel, which cannot teach: beta 3 of 48."
COPIES = (
    "images of the unseen delta that a hospital which trains has too: 5 of 48 (alpha 5): for these, its "
    "scores are not those of new images."
)


def save(path: Path, seed: int, **firsts: np.ndarray) -> np.ndarray:
    """30, 9 and 9 images of three classes; ``firsts`` replaces the first of a split. Returns train."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", 30), ("val", 9), ("test", 9)):
        images = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
        if split in firsts:
            images[: len(firsts[split])] = firsts[split]
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(n) % 3}
    np.savez(path, **arrays)
    return arrays["train_images"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Beta has three black images, and unseen delta five of alpha's."""
    folder = tmp_path_factory.mktemp("remarks")
    alpha = save(folder / "alpha.npz", 0)
    save(folder / "beta.npz", 1, train=np.zeros((3, 8, 8), np.uint8))
    save(folder / "delta.npz", 2, test=alpha[3:8])
    sites = [
        {"name": n, "source": f"npz:{n}.npz", "unseen": n == "delta"} for n in ("alpha", "beta", "delta")
    ]
    (folder / "odd.yaml").write_text(yaml.safe_dump({"title": "Odd", "sites": sites}))
    experiment = {
        "name": "odd",
        "cohort": "odd.yaml",
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "seeds": [0, 1],
        "training": {"rounds": 1, "epochs": 1, "batch_size": 10},
        "fusion": ["mean"],
        "evaluation": {"streams": ["iid"]},
    }
    (folder / "odd-run.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "odd-study.yaml").write_text(
        yaml.safe_dump({"name": "odd", "base": experiment, "references": []})
    )
    return folder


@pytest.fixture(scope="module")
def result(place):
    return run(place / "odd-run.yaml", out=place / "whole")


def test_a_run_says_them_in_the_result_the_files_and_the_page(result):
    assert result.remarks == (BLACK, COPIES)
    assert open_result(result.folder).remarks == result.remarks
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert page.count(BLACK) == page.count(COPIES) == 1
    write_again(result.folder)
    assert BLACK in (result.folder / "report.html").read_text(encoding="utf-8")


def test_a_run_prints_them(result, capsys):
    show_result(result)
    said = " ".join(capsys.readouterr().err.split())
    assert f"note: {BLACK}" in said
    assert f"note: {COPIES}" in said
    show_result(result, as_json=True)
    assert json.loads(capsys.readouterr().out)["remarks"] == [BLACK, COPIES]


def test_a_run_that_was_interrupted_says_the_same(result, place, monkeypatch):
    original = module.run_seed

    def stop(experiment, cohort, seed, *rest):
        if seed == 1:
            raise KeyboardInterrupt
        original(experiment, cohort, seed, *rest)

    monkeypatch.setattr(module, "run_seed", stop)
    with pytest.raises(Stopped, match="--resume"):
        run(place / "odd-run.yaml", out=place / "broken")
    monkeypatch.setattr(module, "run_seed", original)
    assert run(resume=place / "broken").remarks[:2] == result.remarks
    again = run(resume=place / "broken").remarks
    assert "is finished" in again[0]
    assert again[1:3] == result.remarks


def test_a_study_says_them_with_its_cohort(place, monkeypatch):
    monkeypatch.chdir(place)
    done = bench(place / "odd-study.yaml", out=place / "study")
    assert done.remarks == (f"odd: {BLACK}", f"odd: {COPIES}")
    assert open_study(place / "study").remarks == done.remarks
    page = write_again(place / "study")[1].read_text(encoding="utf-8")
    assert page.count(BLACK) == 1
    told = CliRunner().invoke(app, ["bench", str(place / "odd-study.yaml"), "--out", str(place / "study")])
    assert told.exit_code == 0
    assert f"note: odd: {BLACK}" in " ".join(told.stderr.split())


def test_showing_a_cohort_says_them(place, monkeypatch):
    monkeypatch.chdir(place)
    told = CliRunner().invoke(app, ["sites", "show", "odd.yaml"])
    assert f"note: {COPIES}" in " ".join(told.stderr.split())
    told = CliRunner().invoke(app, ["sites", "show", "odd.yaml", "--json"])
    assert json.loads(told.stdout)["remarks"] == [BLACK, COPIES]
