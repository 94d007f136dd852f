from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import results as command
from fedmerge.cli.app import app
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.query import query
from fedmerge.experiment.folder.results import write_table


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run; a study with a job's own file, its folder named with pattern characters; another file."""
    folder = tmp_path / "jobs" / "runs"  # "jobs" above the folder means nothing
    frames = {
        "quick-001/results.parquet": pd.DataFrame({"method": ["mean", "greedy"], "accuracy": [0.5, 0.75]}),
        "study [1]*/results.parquet": pd.DataFrame(
            {"training": ["with"], "method": ["mean"], "accuracy": [float("nan")], "seed": [3]}
        ),
        "study [1]*/jobs/4f/results.parquet": pd.DataFrame({"method": ["job"], "accuracy": [0.0]}),
        "quick-001/coefficients.parquet": pd.DataFrame({"method": ["coefficient"]}),
    }
    (folder / "study [1]*").mkdir(parents=True)
    (folder / "study [1]*" / "study.yaml").write_text("name: study\n")
    for name, frame in frames.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(folder / name, index=False)
    return folder


def test_all_rows_with_their_folder(runs):
    frame = query("SELECT folder, method FROM results", runs)
    assert frame.values.tolist() == [["quick-001", "mean"], ["quick-001", "greedy"], ["study [1]*", "mean"]]


def test_columns_are_united_by_name(runs):
    frame = query("SELECT * FROM results ORDER BY training NULLS FIRST", runs)
    assert set(frame.columns) == {"folder", "training", "method", "accuracy", "seed"}
    assert frame["training"].isna().tolist() == [True, True, False]
    assert frame["seed"].iloc[2] == 3


def test_a_score_that_is_missing_does_not_spoil_a_mean(runs):
    frame = query("SELECT method, avg(accuracy) AS a FROM results GROUP BY method ORDER BY method", runs)
    assert frame["a"].tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("part", "methods"),
    [
        ("quick-001", ["mean", "greedy"]),
        ("quick-001/results.parquet", ["mean", "greedy"]),
        ("study [1]*/jobs/4f", ["job"]),
    ],
)
def test_one_folder_or_one_file(runs, part, methods):
    frame = query("SELECT * FROM results", runs / part)
    assert frame["method"].tolist() == methods
    assert set(frame["folder"]) == {"."}


def test_an_answer_can_be_asked_again(runs, tmp_path):
    answer = query("SELECT * FROM results", runs)
    answer.to_parquet(tmp_path / "answer.parquet")
    again = query("SELECT * FROM results", tmp_path / "answer.parquet")
    assert again["folder"].tolist() == answer["folder"].tolist()


def test_a_relative_folder(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert query("SELECT DISTINCT folder FROM results ORDER BY 1")["folder"].tolist() == [
        "quick-001",
        "study [1]*",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY results TO '{there}/stolen.csv'",
        "SELECT * FROM read_text('{there}/secret.txt')",
        "SELECT * FROM '{there}/quick-001/coefficients.parquet'",
        "ATTACH '{there}/stolen.csv'",
        "SELECT * FROM glob('{there}/*')",
        "SET enable_external_access = true; SELECT * FROM read_text('{there}/secret.txt')",
        "SELECT * FROM secret",
        "DELETE FROM results",
        "CREATE TABLE t AS SELECT 1",
        "SET threads = 1",
        "EXPLAIN ANALYZE COPY results TO '{there}/stolen.csv'",
    ],
)
def test_no_file_and_no_variable_can_be_reached(runs, sql):
    secret = pd.DataFrame({"word": ["open sesame"]})  # DuckDB would find it by its name
    (runs / "secret.txt").write_text(secret["word"][0])
    with pytest.raises(FedMergeError, match=r"query is not understood|no question|only one is answered"):
        query(sql.format(there=runs), runs)
    assert not (runs / "stolen.csv").exists()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT acuracy FROM results", ["acuracy", "has the columns", "accuracy", "training", "folder"]),
        ("SELCT 1", ['"SELCT"', "has the columns"]),
        ("", ["asks nothing"]),
        ("; ;", ["asks nothing"]),
        ("-- nothing", ["asks nothing"]),
        ("SELECT 1; SELECT 2", ["2 queries", "one at a time"]),
        ("SELECT 1; SELECT 2; ;", ["2 queries"]),
        ("UPDATE results SET accuracy = 1", ["no question (UPDATE)"]),
    ],
)
def test_what_is_wrong_with_the_sql_is_one_sentence(runs, sql, words):
    with pytest.raises(FedMergeError) as error:
        query(sql, runs)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_no_results_and_damaged_results_are_said(runs, tmp_path):
    with refused("nowhere", "folder"):
        query("SELECT 1", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with refused("empty", "results"):
        query("SELECT 1", tmp_path / "empty")
    for file in runs.rglob("results.parquet"):
        file.write_text("half a file")
    with pytest.raises(FedMergeError, match=r"quick-001/results\.parquet"):
        query("SELECT 1", runs)


def test_a_damaged_file_is_left_out_and_said(runs):
    (runs / "quick-001" / "results.parquet").write_text("half a file")
    told: list[str] = []
    assert query("SELECT method FROM results", runs, tell=told.append)["method"].tolist() == ["mean"]
    sentence, *doubts = told
    assert all("what was written there" in doubt for doubt in doubts)  # made-up runs have no manifest
    assert "quick-001/results.parquet" in sentence
    assert "left out" in sentence
    with pytest.warns(UserWarning, match="quick-001"):
        query("SELECT 1", runs)


def put(folder: Path, **columns: list) -> None:
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / "results.parquet", index=False)


def test_one_file_of_text_does_not_turn_numbers_to_text(tmp_path):
    put(tmp_path / "a", seed=[1, 2], accuracy=[0.5, 0.25])
    put(tmp_path / "a2", seed=[4], accuracy=[0.0])
    put(tmp_path / "b", seed=["3"], accuracy=[1])
    put(tmp_path / "c", seed=["three"], accuracy=[1.0])
    told: list[str] = []
    frame = query("SELECT sum(seed) AS s, sum(accuracy) AS a FROM results", tmp_path, tell=told.append)
    assert (frame["s"][0], frame["a"][0]) == (10, 1.75)
    assert len(told) == 1
    assert "'three'" in told[0]
    assert "c/results.parquet" in told[0]


def test_a_column_that_is_empty_in_a_file_has_no_say(tmp_path):
    put(tmp_path / "a", device=[None, None], seed=[1, 2])
    put(tmp_path / "b", device=["cpu"], seed=[None])
    frame = query("SELECT device, seed FROM results ORDER BY folder", tmp_path, tell=pytest.fail)
    assert frame["device"].isna().tolist() == [True, True, False]
    assert frame["seed"].dropna().tolist() == [1, 2]


def test_text_in_most_files_stays_text(tmp_path):
    for name in "abc":
        put(tmp_path / name, level=[name])
    put(tmp_path / "d", level=[4])
    assert query("SELECT level FROM results ORDER BY 1", tmp_path)["level"].tolist() == ["4", "a", "b", "c"]


def test_only_the_jobs_of_a_study_are_left_out(tmp_path):
    put(tmp_path / "jobs", seed=[1])
    put(tmp_path / "jobs" / "mine", seed=[2])
    study = tmp_path / "jobs" / "study"
    put(study, seed=[3])
    (study / "study.yaml").write_text("name: s\n")
    (study / "jobs").mkdir()
    put(study / "jobs" / "4f", seed=[99])
    assert query("SELECT seed FROM results ORDER BY 1", tmp_path)["seed"].tolist() == [1, 2, 3]
    assert query("SELECT seed FROM results", study / "jobs")["seed"].tolist() == [99]


@pytest.mark.parametrize(
    "sql", ["PIVOT results ON method USING avg(accuracy)", "SUMMARIZE results", "FROM results"]
)
def test_other_ways_to_ask_are_answered(runs, sql):
    assert len(query(sql, runs))


def call(*args: object) -> str:
    done = CliRunner().invoke(app, ["results", *map(str, args)])
    assert done.exception is None, done.exception
    return done.stdout


@pytest.fixture(autouse=True)
def _console_of_the_runner(monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(command, "out", Console(width=40))


def test_the_command_prints_every_row_and_every_column_in_full(runs):
    for i in range(30):
        (runs / f"r{i}").mkdir()
        pd.DataFrame({"method": [f"method-{i}-of-a-long-name"], "accuracy": [i / 3]}).to_parquet(
            runs / f"r{i}" / "results.parquet"
        )
    text = call("SELECT *, 'x' AS \"[bold]\" FROM results", "--runs", runs)
    assert "0.7500" in text
    assert "[bold]" in text
    assert all(f"method-{i}-of-a-long-name" in text for i in range(30))


def test_numbers_are_rounded_as_their_column_asks(runs):
    text = call(
        "SELECT 0.123456::DOUBLE AS a, 12345.678 AS b, 0.00001::DOUBLE AS c, 7 AS d, NULL AS e",
        "--runs",
        runs,
    )
    assert text.split()[-5:] == ["0.1235", "12345.7", "1e-05", "7", "–"]


def test_the_command_as_json(runs):
    rows = json.loads(call("SELECT method, accuracy FROM results", "--runs", runs, "--json"))
    assert rows[0] == {"method": "mean", "accuracy": 0.5}
    assert rows[2]["accuracy"] is None


@pytest.mark.parametrize(("suffix", "read"), [(".csv", pd.read_csv), (".parquet", pd.read_parquet)])
def test_the_command_writes_a_file(runs, tmp_path, suffix, read):
    file = tmp_path / f"answer{suffix}"
    assert "rows: 2" in call("SELECT accuracy FROM results WHERE accuracy > 0", "--runs", runs, "--out", file)
    assert read(file)["accuracy"].tolist() == [0.5, 0.75]


def test_a_file_of_no_known_kind_is_refused(runs, tmp_path):
    done = CliRunner().invoke(
        app, ["results", "SELECT 1", "--runs", str(runs), "--out", str(tmp_path / "a.txt")]
    )
    assert isinstance(done.exception, FedMergeError)
    assert "end its name in .csv or .parquet" in str(done.exception)


@pytest.mark.parametrize("start", "=+-@")
def test_no_spreadsheet_takes_a_text_for_a_formula(tmp_path: Path, start: str) -> None:
    formula = f"{start}cmd|'/c calc'!A1"
    frame = pd.DataFrame({"reason": [formula, f"as {formula}"], "gain": [-1.5, 2.0]})
    write_table(tmp_path / "out.csv", frame)
    back = pd.read_csv(tmp_path / "out.csv")
    assert back.reason.tolist() == [f"'{formula}", f"as {formula}"]
    assert back.gain.tolist() == [-1.5, 2.0]
    write_table(tmp_path / "out.parquet", frame)
    assert pd.read_parquet(tmp_path / "out.parquet").reason[0] == formula
