"""``sites check``, ``sites new`` and ``cache``: what a person sees, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.data import read_cohort
from fedmerge.data.cache import made, place
from fedmerge.errors import FedMergeError
from fedmerge.training.local import batch_sizes


def called(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of two clinics with 30 images each."""
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), ["file,diagnosis,clinic,subject"]
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
        rows.append(f"{i:02}.png,{('ill', 'well')[i % 2]},{('North', 'South Bay')[i // 30]},{i // 2}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    return tmp_path / "all.csv"


def test_a_new_cohort_is_written_from_a_table_and_is_fine(table: Path) -> None:
    done = called("sites", "new", "mine.yaml", f"all={table}", "--unseen", "south-bay", "--size", 16)
    assert done.exit_code == 0, done.output
    written = yaml.safe_load(Path("mine.yaml").read_text())
    columns = {"path": "file", "label": "diagnosis", "patient": "subject", "site": "clinic"}
    assert written["sites"][0] == {
        "name": "north",
        "source": f"csv:{table}",
        "table": columns | {"value": "North"},
    }
    assert [site.unseen for site in read_cohort("mine.yaml").sites] == [False, True]
    done = called("sites", "check", "mine.yaml", "--json")
    said = json.loads(done.stdout)
    assert [sum(site["images"].values()) for site in said["sites"]] == [30, 30]
    assert [site["patients"] for site in said["sites"]] == [15, 15]
    assert done.exit_code == said["exit_code"] == 0
    assert "<table>" in Path(said["page"]).read_text()


def test_what_cannot_be_seen_is_asked_for(table: Path) -> None:
    table.write_text(table.read_text().replace("diagnosis", "what"))
    done = called("sites", "new", "mine.yaml", f"all={table}")
    assert isinstance(done.exception, FedMergeError)
    assert "--label" in str(done.exception)
    assert called("sites", "new", "mine.yaml", f"all={table}", "--label", "what").exit_code == 0
    assert isinstance(called("sites", "new", "mine.yaml", f"all={table}").exception, FedMergeError)


def test_damaged_files_are_errors_by_name(table: Path) -> None:
    called("sites", "new", "mine.yaml", f"all={table}")
    for name in ("03.png", "41.png"):
        (table.parent / name).write_bytes(b"no image")
    done = called("sites", "check", "mine.yaml", "--json")
    assert done.exit_code == 2
    texts = [finding["text"] for finding in json.loads(done.stdout)["findings"]]
    assert len(texts) == 2
    assert ["03.png" in texts[0], "41.png" in texts[1]] == [True, True]


EXPERIMENT = {
    "name": "small", "cohort": "nowhere.yaml", "model": {"name": "small-cnn", "options": {"width": 4}},
    "training": {"rounds": 2, "epochs": 3, "batch_size": 8, "fine_tune": "none"}, "fusion": ["mean"],
    "testtime": [], "evaluation": {"streams": ["iid"]}, "seeds": [3, 4], "threads": 1,
}  # fmt: skip


def test_an_experiment_is_estimated_on_the_cohort_that_is_checked(table: Path) -> None:
    """Two rounds of three epochs; the experiment's own cohort does not count."""
    called("sites", "new", "mine.yaml", f"all={table}", "--unseen", "south-bay", "--size", 16)
    Path("e.yaml").write_text(json.dumps(EXPERIMENT))
    plain = called("sites", "check", "mine.yaml")
    assert plain.exit_code == 0, plain.output
    assert "--config" in plain.stdout
    assert json.loads(called("sites", "check", "mine.yaml", "--json").stdout)["estimate"] is None
    done = called("sites", "check", "mine.yaml", "--config", "e.yaml", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    found = told["estimate"]
    train = told["sites"][0]["images"]["train"]
    steps = len(batch_sizes(train, 8)) * 2 * 3
    assert f"1 hospitals, {steps:,} training steps" in found["parts"][0]["what"]
    assert found["parts"][0]["seconds"] >= 2 * steps * found["measured"]["seconds a training step"]
    assert (found["seeds"], found["memory"] > told["bytes"]) == ([3, 4], True)
    assert "training steps" in Path(told["page"]).read_text()
    one = called("sites", "check", "mine.yaml", "--config", "e.yaml", "--json", "--seed", 7)
    assert json.loads(one.stdout)["estimate"]["seeds"] == [7]


def test_an_experiment_that_cannot_run_on_the_cohort_is_an_error(table: Path) -> None:
    called("sites", "new", "mine.yaml", f"all={table}", "--unseen", "south-bay", "--size", 16)
    wrong = EXPERIMENT | {"training": EXPERIMENT["training"] | {"batch_size": 50}}
    Path("e.yaml").write_text(json.dumps(wrong))
    done = called("sites", "check", "mine.yaml", "--config", "e.yaml", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["estimate"]) == (2, None)
    (finding,) = [each for each in told["findings"] if each["severity"] == "error"]
    assert finding["kind"] == "experiment"
    assert "batch_size" in finding["text"]
    Path("e.yaml").write_text("model: {")
    assert isinstance(called("sites", "check", "mine.yaml", "--config", "e.yaml").exception, FedMergeError)


def test_the_cache_is_listed_and_cleaned(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.FOLDER, str(table.parent / "cache"))
    monkeypatch.setattr(made, "SMALL", 0)
    called("sites", "new", "mine.yaml", f"all={table}")
    called("sites", "check", "mine.yaml")
    (one, other) = json.loads(called("cache", "list", "--json").stdout)
    assert (one["images"], other["images"]) == (30, 30)
    assert "2 entries" in called("cache", "list").stdout
    assert "2 entries removed" in called("cache", "clean").stdout
    assert json.loads(called("cache", "list", "--json").stdout) == []
    monkeypatch.setenv(place.FOLDER, "off")
    assert isinstance(called("cache", "list").exception, FedMergeError)
