"""The command line as a person uses it: once well and once wrong in its own process, else in this one."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedmerge.cli import main
from fedmerge.reports import page

ROOT = Path(__file__).parents[1]
SMALL = [
    "--set", "training.rounds=1", "--set", "training.epochs=1", "--set", "training.fine_tune.epochs=1",
    "--set", "model.options.width=4", "--set", "threads=1",
]  # fmt: skip


def in_a_process(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedmerge", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def fedmerge(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What the command does in this process, where all of it is imported already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["fedmerge", *args])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def test_a_run_from_the_command_line(tmp_path, monkeypatch):
    config = str(ROOT / "configs" / "quickstart.yaml")
    done = in_a_process("run", config, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("after ") for line in done.stderr.splitlines())  # no bar, no warning
    methods = ("majority-class †", "entropy-adaptive", "pooled", "alone:north", "greedy", "ensemble-features")
    for word in (*methods, "report.html", "† one class for every image", "answer:  "):
        assert word in done.stdout
    folder = tmp_path / "runs" / "quickstart-001"
    assert {"results.parquet", "results.csv", "report.html", "config.yaml", "provenance.json"} <= {
        path.name for path in folder.iterdir()
    }

    monkeypatch.setattr(page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")
    again = fedmerge("run", str(folder / "config.yaml"), "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert answer["folder"] == "runs/quickstart-002"
    first = pd.read_parquet(folder / "results.parquet").drop(columns="seconds")
    second = pd.read_parquet(tmp_path / answer["folder"] / "results.parquet").drop(columns="seconds")
    pd.testing.assert_frame_equal(first, second)
    assert len(answer["rows"]) == len(first)
    assert answer["failed"] == 0
    assert answer["answer"] in done.stdout
    assert {row["constant"] for row in answer["rows"] if row["kind"] == "reference"} == {True}

    tuned = fedmerge("tune", str(folder), "--values", "0.1,inf", "--stream", "iid", cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    for word in ("temperature", "mean", "north", "<- chosen", "testtime:", "method: entropy-adaptive"):
        assert word in tuned.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tune", "nowhere"], ["'nowhere' is not the folder of a run"]),
        (["run"], ["give a configuration to run, or --resume"]),
        (["run", "--resume", "nowhere"], ["'nowhere' is not the folder of a run"]),
        (["run", "nowhere.yaml"], ["there is no configuration 'nowhere.yaml'"]),
        (["run", "quickstart", "--set", "model=smal-cnn"], ["smal-cnn", "small-cnn"]),
        (["run", "quickstart", "--set", "training.inmerge.alfa=1"], ["training.inmerge.alfa", "alpha"]),
        (["run", "quickstart", "--device", "abacus"], ["device 'abacus'"]),
        (["sites", "show", "digit-scanners"], ["unknown cohort 'digit-scanners'", "digits-scanners"]),
    ],
)
def test_what_the_user_can_put_right_is_one_sentence(args, words, tmp_path):
    done = (in_a_process if args[-1] == "nowhere.yaml" else fedmerge)(*args, cwd=tmp_path)
    assert done.returncode == 2
    *before, sentence = done.stderr.splitlines()
    assert all(line.startswith("after ") for line in before), (
        done.stderr
    )  # a slow machine says so every 8 seconds
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), done.stderr
    assert not (tmp_path / "runs").exists()


def test_methods_and_sites(tmp_path):
    methods = json.loads(fedmerge("methods", "--json", cwd=tmp_path).stdout)
    assert {"mean", "greedy", "ensemble-logits", "ensemble-features", "entropy-adaptive"} <= {
        method["name"] for method in methods
    }
    assert all(method["paper"] and method["summary"] for method in methods)
    assert "greedy" in fedmerge("methods", cwd=tmp_path).stdout
    cohorts = json.loads(fedmerge("sites", "list", "--json", cwd=tmp_path).stdout)
    assert set(cohorts) == {path.stem for path in (ROOT / "sites").glob("*.yaml")}
    shown = fedmerge("sites", "show", "digits-scanners", "-o", "sheet.png", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "hillcrest (unseen)" in shown.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_files_are_merged_from_the_command_line(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    for name, value in (("a", 1.0), ("b", 3.0)):
        save_file({"head.weight": torch.full((2, 3), value)}, tmp_path / f"{name}.safetensors")
    done = fedmerge("merge", "a.safetensors", "b.safetensors", "-o", "mean.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a 0.5, b 0.5" in done.stdout
    assert load_file(tmp_path / "mean.safetensors")["head.weight"].equal(torch.full((2, 3), 2.0))
    again = fedmerge("merge", "a.safetensors", "b.safetensors", "-o", "mean.safetensors", cwd=tmp_path)
    assert again.returncode == 2
    assert "must be a new file" in again.stderr
