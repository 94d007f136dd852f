"""The examples of docs/extending, as a person uses them: by --plugin, in a study with two workers, on Ray."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

import fedmerge as fm
from fedmerge.cli import app
from fedmerge.experiment.stages.planning import model_spec
from fedmerge.models import build
from fedmerge.workflows import flower_app
from fedmerge.workflows.flower_app import RunConfig

DOCS = Path(__file__).parents[2] / "docs" / "extending"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
DOORS = ["aggregator", "figure", "fusion", "metric", "network", "source", "testtime", "tracker"]
EXPERIMENT = {
    "name": "striped",
    "cohort": {
        "name": "stripes",
        "source": "stripes:150",
        "sites": [{"name": "north"}, {"name": "south"}, {"name": "coast", "unseen": True}],
    },
    "model": {"name": "tiny-mlp", "options": {"width": 8}},
    "training": {"rounds": 1, "epochs": 2, "lr": 0.1, "batch_size": 8},
    "fusion": ["mean", {"method": "first-heavy", "times": 3.0}],
    "testtime": [{"method": "surest", "margin": 0.1}],
    "evaluation": {"batch_size": 16, "streams": ["iid"]},
    "federation": {"aggregate": {"method": "capped-mean", "most": 20}},
    "threads": 1,
}


def fedmerge(*args: str | Path) -> str:
    done = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def write(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def plugins() -> list[str]:
    return [part for path in EXAMPLES for part in ("--plugin", str(path))]


def test_every_door_has_a_page_with_its_example_in_full_and_its_commands():
    assert [path.stem for path in EXAMPLES] == DOORS
    for path in EXAMPLES:
        page = (DOCS / f"{path.stem}.md").read_text()
        assert path.read_text() in page, f"{path.name} is not in {path.stem}.md as it is"
        assert re.search(rf"fedmerge \w+.* --plugin [\w/]*{path.name}", page)
        assert f"({path.stem}.md)" in (DOCS / "index.md").read_text()


def test_a_run_with_an_example_of_every_door_at_once(plugins, tmp_path):
    config = write(tmp_path / "striped.yaml", EXPERIMENT)
    fedmerge("run", config, *plugins, "--tracker", "lines", "--out", tmp_path / "run")
    table = pd.read_parquet(tmp_path / "run" / "results.parquet").set_index("method")
    assert {"mean", "first-heavy", "surest"} <= set(table.index)
    assert (table["log_loss"] > 0).all()
    assert list(table.columns).index("log_loss") == list(table.columns).index("brier") + 1
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Calibration, method by method" in report
    assert "log loss" in report
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["plugins"] == [str(path) for path in EXAMPLES]
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["table"] for line in lines].count("results") == len(table)
    assert (lines[0]["table"], lines[-1]["finished"]) == ("start", True)
    again = fedmerge("report", tmp_path / "run", "--json")
    assert json.loads(again)["kind"] == "run"


def test_commands_that_list_show_and_merge_take_plug_ins_too(tmp_path):
    folder = DOCS / "examples"
    listed = fedmerge(
        "methods", "--json", "--plugin", folder / "fusion.py", "--plugin", folder / "aggregator.py"
    )
    groups = {row["name"]: row["group"] for row in json.loads(listed) if row["plugin"]}
    assert groups == {"first-heavy": "fusion", "capped-mean": "aggregation"}
    said = fedmerge("methods", "first-heavy", "--plugin", folder / "fusion.py")
    assert "times: 2.0" in said
    assert "fusion.py" in said
    cohort = write(tmp_path / "stripes.yaml", EXPERIMENT["cohort"])
    shown = fedmerge(
        "sites", "show", cohort, "--out", tmp_path / "c.png", "--json", "--plugin", folder / "source.py"
    )
    assert json.loads(shown)["classes"] == ["lying", "upright", "none"]


def study(folder: Path) -> Path:
    """A study whose base names copies of the examples, relative to its file."""
    for name in ("fusion", "network", "source", "metric"):
        shutil.copy(DOCS / "examples" / f"{name}.py", folder / f"{name}.py")
    base = {key: value for key, value in EXPERIMENT.items() if key not in ("federation", "testtime")}
    base |= {"plugins": ["fusion.py", "network.py", "source.py", "metric.py"]}
    given = {"name": "heavy", "base": base, "references": [], "reference": "mean"}
    return write(folder / "study.yaml", given)


def test_a_study_with_two_workers_and_a_changed_plug_in(tmp_path):
    """A changed fusion method is measured anew; the hospitals' training, which does not use it, is not."""
    path, out = study(tmp_path), tmp_path / "out"
    first = fm.bench(path, out=out, workers=2)
    table = first.table.set_index("method")
    assert list(first.table["status"].unique()) == ["done"]
    assert (table["log_loss"] > 0).all()
    assert "log loss" in first.answer or "accuracy" in first.answer
    before = {job.name for job in (out / "jobs").iterdir()}
    plugin = tmp_path / "fusion.py"
    plugin.write_text(plugin.read_text().replace("[times]", "[0.0 * times]"))
    with pytest.raises(fm.FedMergeError, match="plug-in"):
        fm.bench(path, out=out)
    second = fm.bench(path, out=out, extend=True)
    again = second.table.set_index("method")
    assert len({job.name for job in (out / "jobs").iterdir()} - before) == 1
    assert again.loc["mean", "config_hash"] == table.loc["mean", "config_hash"]
    assert again.loc["first-heavy", "config_hash"] != table.loc["first-heavy", "config_hash"]
    assert again.loc["first-heavy", "log_loss"] != table.loc["first-heavy", "log_loss"]


def test_a_node_of_flwr_run_loads_what_the_configuration_names(tmp_path):
    names = ["network.py", "source.py", "fusion.py", "testtime.py", "aggregator.py"]
    config = EXPERIMENT | {"plugins": [str(DOCS / "examples" / name) for name in names]}
    given = RunConfig.read({"config": str(write(tmp_path / "striped.yaml", config))})
    read, cohort = flower_app._experiment(given)
    network = build(model_spec(read, cohort), seed=0)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.slow
def test_hospitals_in_workers_of_ray_import_the_plug_ins_and_give_the_same_bits(own_ray, tmp_path):
    named = {"plugins": [str(path) for path in EXAMPLES]}
    local = fm.run(EXPERIMENT | named, out=tmp_path / "local")
    far = fm.run(EXPERIMENT | named, out=tmp_path / "ray", backend={"kind": "ray", "workers": 2})
    assert far.failures.empty
    pd.testing.assert_frame_equal(
        far.table.drop(columns=["seconds"]), local.table.drop(columns=["seconds"]), check_exact=True
    )
