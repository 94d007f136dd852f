"""`fedmerge doctor`: what is missing is said, and the exit code says whether something will not work."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.experiment.folder import doctor


def told(code: int) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_everything_is_looked_at_and_cohorts_are_told_apart_by_their_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = told(0)
    assert {"python", "torch", "flwr", "devices", "data folder", "cohorts", "ray", "locale", "disk"} <= set(
        found
    )
    here, away = found["cohorts"]["words"].split("; not here: ")
    assert "digits-scanners" in here
    assert "pacs96" in away
    assert list(tmp_path.iterdir()) == []
    text = CliRunner().invoke(app, ["doctor"]).output
    assert str(tmp_path) in text


def test_a_wrong_data_folder_and_a_wrong_version_end_with_code_1(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path / "nowhere"))
    assert told(1)["data folder"]["level"] == "bad"
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    found = told(1)
    assert found["torch"]["level"] == "bad"
    assert "2.11" in found["torch"]["words"]
