"""A report written again from what lies in a folder is the report that was written at first."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from facts import refused
from typer.testing import CliRunner

import fedmerge.cli.report  # noqa: F401  the command registers itself
from fedmerge import run
from fedmerge.cli.app import app
from fedmerge.experiment.folder.results import open_result
from fedmerge.experiment.folder.run_manifest import read_begun
from fedmerge.workflows.rewrite import write_again

SITES = [{"name": "007"}, {"name": "beta"}, {"name": "delta", "unseen": True}]
DIGITS = {
    "name": "tiny",
    "cohort": {"name": "thirds", "source": "digits", "size": 8, "sites": SITES},
    "model": {"name": "small-cnn", "options": {"width": 4}},
    "training": {"rounds": 1, "epochs": 1, "fine_tune": {"epochs": 1}},
    "fusion": ["mean", "greedy"],
    "testtime": ["entropy-adaptive"],
    "evaluation": {"batch_size": 64, "streams": ["iid"]},
}


def contents(folder: Path) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of the digits at two hospitals that train and one that does not."""
    return run(DIGITS, out=tmp_path_factory.mktemp("again") / "run").folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of the run."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.mark.pictures
def test_the_report_is_the_same_and_nothing_else_is_touched(made):
    before = contents(made)
    (made / "report.html").write_text("lost")
    assert write_again(made) == ("run", made / "report.html")
    assert contents(made) == before


def test_the_tables_come_back_as_they_were(made):
    result = open_result(made)
    pd.testing.assert_frame_equal(result.table, pd.read_parquet(made / "results.parquet"))
    assert set(result.history["site"]) == {"007", "beta"}
    assert result.experiment.fusion[1].label == "greedy"
    assert len(result.decisions)
    assert result.failures.empty
    assert [len(site.everything) > 0 for site in result.cohort.sites] == [True, True, True]


def test_a_file_in_the_folder_does_too_and_the_report_goes_where_it_is_told(folder, tmp_path):
    before = contents(folder)
    kind, path = write_again(folder / "results.csv", tmp_path / "other.html")
    assert (kind, path) == ("run", tmp_path / "other.html")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "source", ["npz:gone.npz", "medmnist:bloodmnist", "arrays (9 x 8 x 8, 0123456789ab)"]
)
def test_without_its_data_a_run_keeps_its_numbers(folder, source, monkeypatch, tmp_path):
    """Files that are gone, a set that would have to be downloaded, arrays that were in memory."""
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["cohort"]["source"] = source
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = write_again(folder)[1].read_text(encoding="utf-8")
    assert "are not on this machine" in page
    assert "007" in page
    assert not (tmp_path / ".medmnist").exists()


def test_what_is_neither_is_a_sentence(tmp_path, folder):
    (tmp_path / "notes.txt").write_text("nothing")
    with refused(tmp_path, "run", "study"):
        write_again(tmp_path / "notes.txt")
    with refused("there is no", "nowhere"):
        write_again(tmp_path / "nowhere")
    with refused(tmp_path, "is a folder"):
        write_again(folder, tmp_path)
    with refused(tmp_path, "folder", "run"):
        open_result(tmp_path)


def test_a_damaged_file_is_a_sentence(folder):
    (folder / "decisions.json").write_text("[{")
    with refused("decisions.json", "read"):
        write_again(folder)


def test_a_run_that_is_not_finished_names_the_way_on(folder):
    """One that was stopped has tables; one that was killed has none."""
    begun = read_begun(folder)
    begun.model_copy(update={"finished": False}).write(folder)
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert f"fedmerge run --resume {folder}" in shown.stderr
    (folder / "results.parquet").unlink()
    with refused("fedmerge", "--resume", folder):
        write_again(folder)


def test_the_command(folder):
    shown = CliRunner().invoke(app, ["report", str(folder), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {
        "kind": "run",
        "report": str(folder / "report.html"),
        "unfinished": None,
        "warnings": [],
    }
