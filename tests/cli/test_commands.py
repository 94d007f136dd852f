"""Commands in this process: what they write where, what they explain, and how a careless word ends."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import fedmerge
from fedmerge.cli import app
from fedmerge.cli.app import main
from fedmerge.errors import FedMergeError

LONG = "x" * 5000


def invoke(*args: object, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_picture_of_a_cohort_is_where_the_command_says(here):
    out, _ = invoke("sites", "show", "digits-scanners", "--json")
    assert Path(json.loads(out)["picture"]) == here / "digits-scanners.png"
    (here / "pictures").mkdir()
    for asked, path in (
        ("sheet.svg", here / "sheet.svg"),
        ("pictures", here / "pictures" / "digits-scanners.png"),
    ):
        out, _ = invoke("sites", "show", "digits-scanners", "--out", asked)
        assert f"picture: {path}" in out
        assert path.stat().st_size > 1000
    assert sorted(path.name for path in here.iterdir()) == ["digits-scanners.png", "pictures", "sheet.svg"]


def test_networks_are_explained_as_methods_are():
    out, _ = invoke("methods", "small-cnn")
    assert "small-cnn: Small CNN (model)" in out
    assert "width: 32" in out
    assert "needs:" not in out
    (record,) = json.loads(invoke("methods", "resnet18", "--json")[0])
    assert "width" in record["options"]
    assert "no options" in invoke("methods", "torchvision:resnet18")[0]
    listed = {method["name"] for method in json.loads(invoke("methods", "--json")[0])}
    assert "small-cnn" not in listed  # the list is of methods


@pytest.mark.parametrize(
    ("name", "words"),
    [("smal-cnn", "Did you mean 'small-cnn'"), ("torchvision:resnet19", "Did you mean 'resnet18'")],
)
def test_an_unknown_name_has_the_nearest(name, words):
    done = CliRunner().invoke(app, ["methods", name])
    assert isinstance(done.exception, FedMergeError)
    assert words in str(done.exception)


def test_what_is_printed_for_users_names_nothing_that_is_not_shipped():
    """A formula or a paper, but no section of a document of ours, in any docstring of a method."""
    for method in fedmerge.methods():
        text = invoke("methods", method.name)[0]
        assert not re.search(r"our\s+specification|\bspec of\b|\([A-D]\.\d\)|, [A-D]\.\d\)", text), (
            method.name
        )


def test_a_damaged_results_file_is_named_on_stderr_and_stdout_stays_json(here):
    for name in ("a", "b"):
        (here / name).mkdir()
    pd.DataFrame({"seed": [1]}).to_parquet(here / "a" / "results.parquet")
    (here / "b" / "results.parquet").write_text("half")
    out, err = invoke("results", "SELECT seed FROM results", "--runs", here, "--json")
    assert json.loads(out) == [{"seed": 1}]
    assert err.startswith("note: ")
    assert "b/results.parquet" in err


@pytest.mark.parametrize(
    "args",
    [
        ("run", LONG),
        ("run", "quickstart", "--out", LONG),
        ("run", "--resume", LONG),
        ("run", "."),
        ("run", "quickstart", "--set", f"cohort={LONG}"),
        (
            "run",
            "quickstart",
            "--set",
            f"cohort={{name: x, source: 'npz:{LONG}', sites: [{{name: a}}]}}",
            "--set",
            "unseen=none",
        ),
        ("run", "quickstart", "--set", f"device={LONG}"),
        ("bench", LONG),
        ("bench", "quickstart"),
        ("report", LONG),
        ("results", "SELECT 1", "--runs", LONG),
        ("merge", LONG, "-o", "x.safetensors"),
        ("merge", ".", "-o", "x.safetensors"),
        ("tune", LONG),
        ("sites", "show", LONG),
        ("sites", "show", "digits-scanners", "--out", "no-kind-of-picture"),
        ("sites", "show", "digits-scanners", "--out", "nowhere/x.png"),
        ("sites", "export", "digits-scanners", "/proc/nowhere"),
        ("deployment", "server", "/proc/nowhere", "--name", "x"),
        ("deployment", "start", LONG),
    ],
)
def test_a_careless_word_is_a_short_sentence_and_nothing_is_written(here, args):
    done = CliRunner().invoke(app, list(args))
    assert isinstance(done.exception, FedMergeError), (done.output, done.exception)
    assert all(len(sentence) < 1200 for sentence in done.exception.args)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("command", "option"),
    [("run", "--seed"), ("merge", "--seed"), ("sites show", "--seed"), ("sites export", "--seed")],
)
@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_a_seed_out_of_range_is_refused(here, command, option, seed):
    rest = {"run": ["quickstart"], "merge": ["a", "-o", "b"], "sites export": ["digits-scanners", "x"]}
    invoke(*command.split(), *rest.get(command, ["digits-scanners"]), option, seed, code=2)
    assert not list(here.iterdir())


def test_what_the_system_refuses_is_a_sentence_too(monkeypatch, capsys):
    def refuse():
        raise PermissionError(13, "Permission denied", "/secret/file")

    monkeypatch.setattr(sys.modules["fedmerge.cli.app"], "app", refuse)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "'/secret/file' cannot be used (Permission denied)" in capsys.readouterr().err
