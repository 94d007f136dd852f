"""The page of a run or a study at work: what it counts, what it draws, and that it only reads."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from facts import refused
from starlette.testclient import TestClient
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.cli.progress import clock
from fedmerge.workflows.live import live_status
from fedmerge.workflows.live.app import live_app
from fedmerge.workflows.live.curves import HEIGHT, WIDTH, charts
from fedmerge.workflows.run import run

EXPERIMENT = {
    "name": "live",
    "cohort": {
        "name": "two", "source": "digits", "size": 8,
        "sites": [
            {"name": "north", "limit": 60}, {"name": "south", "limit": 50}, {"name": "hill", "unseen": True},
        ],
    },
    "model": {"name": "small-cnn", "options": {"width": 2}},
    "training": {"rounds": 4, "epochs": 1, "batch_size": 32, "fine_tune": "none"},
    "fusion": [],
    "testtime": [],
    "evaluation": {"streams": ["iid"]},
    "threads": 1,
}  # fmt: skip


def client(folder: Path) -> TestClient:
    return TestClient(live_app(lambda: live_status(folder), clock), base_url="http://127.0.0.1")


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_run_in_progress_is_shown_and_nothing_of_it_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen: list[tuple[dict[str, Any], str]] = []

    def look(stage: str, done: int, total: int) -> None:
        if "training" in stage and (folder / "run.json").is_file():
            before = files(folder)
            told, page = client(folder).get("/status.json"), client(folder).get("/")
            assert told.status_code == page.status_code == 200
            assert files(folder) == before
            seen.append((told.json(), page.text))

    finished = run(EXPERIMENT, out=folder, progress=look)
    numbers = [told["done"] for told, _ in seen]
    assert numbers == sorted(numbers)
    assert {0, 3} <= set(numbers)
    for told, page in seen:
        assert told["kind"] == "run"
        assert told["state"] == "running"
        assert told["jobs"] == 4
        assert {row["round"] for each in told["curves"] for row in each["rows"]} == set(
            range(1, told["done"] + 1)
        )
        assert f"{told['done']} of 4 rounds done, {4 - told['done']} left" in page
        assert (told["left"] is not None) == (2 <= told["done"] < 4)  # two ends make a round's length
    history = finished.history.query("round == 3 and phase == 'validate'").set_index("site")["accuracy"]
    told, page = next(each for each in seen if each[0]["done"] == 3)
    for site in ("north", "south"):
        assert re.search(rf"</svg>{site} {100 * history[site]:.3g} %", page)
    after = client(folder).get("/status.json").json()
    assert after["state"] == "finished"
    assert after["done"] == 4
    assert after["running"] == []


def test_a_study_is_counted_by_its_jobs(tmp_path: Path) -> None:
    """Two jobs of 4 and 2 seconds have ended, one of them failed; two are left, one is at work: 2 x 3 s."""
    (tmp_path / "study.yaml").write_text("name: s")
    labels = ["rounds, seed 0", "fuse <mean>", "evaluate", "rounds, seed 1"]
    plan = {"hash": "0", "jobs": ["a", "b", "c", "d"], "labels": labels}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for job, marker, record in (
        ("a", "done", {"seconds": 4.0}),
        ("b", "failed", {"seconds": 2.0, "reason": "the <matrix> is singular"}),
    ):
        (tmp_path / "jobs" / job).mkdir(parents=True)
        (tmp_path / "jobs" / job / marker).write_text("")
        (tmp_path / "jobs" / job / "job.json").write_text(json.dumps(record))
    (tmp_path / "jobs" / ".d.part").mkdir()
    told = live_status(tmp_path)
    assert (told["kind"], told["done"], told["jobs"], told["left"]) == ("study", 2, 4, 6.0)
    assert [each["what"] for each in told["running"]] == ["rounds, seed 1"]
    page = client(tmp_path).get("/").text
    assert "2 of 4 jobs done, 2 left: about 6 s" in page
    assert "the &lt;matrix&gt; is singular" in page
    assert "<matrix>" not in page
    long_ago = time.time() - 3600
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (long_ago, long_ago))
    assert live_status(tmp_path)["quiet"]
    (tmp_path / "plan.json").write_text("{")  # half written
    lost = client(tmp_path).get("/")
    assert lost.status_code == 503
    assert "cannot be read" in lost.text


def test_curves_are_the_values_of_rounds() -> None:
    """Accuracy 0.2, 0.4, 0.3 in rounds 1 to 3: the lowest at the bottom left, the highest at the top."""
    rows = [
        {"round": at, "phase": "validate", "site": "north", "accuracy": value}
        for at, value in ((1, 0.2), (2, 0.4), (3, 0.3), (4, float("nan")))
    ]
    (chart,) = charts(rows)
    (line,) = chart.lines
    assert line.points == f"0.0,{HEIGHT}.0 {WIDTH / 2},0.0 {WIDTH}.0,{HEIGHT / 2}"
    assert (chart.low, chart.high, chart.first, chart.last, line.last) == (20.0, 40.0, 1, 3, 30.0)
    assert "north 30 %" in chart.words
    assert charts([]) == []


def test_the_page_only_reads_loads_nothing_and_answers_only_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: s")
    (tmp_path / "plan.json").write_text('{"hash": "0", "jobs": []}')
    found = client(tmp_path)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (
            found.request(method, "/").status_code == found.request(method, "/status.json").status_code == 405
        )
    page = found.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=\"(?!/status\.json)", page.text)
    assert found.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(("make", "facts"), [
    ([], ("there is no",)), (["x.txt"], ("config.yaml", "plan.json")),
    (["server.yaml"], ("deployment watch",)),
])  # fmt: skip
def test_another_folder_is_refused_in_a_sentence(
    tmp_path: Path, make: list[str], facts: tuple[str, ...]
) -> None:
    folder = tmp_path / "it"
    for name in make:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("")
    with refused("it", *facts):
        live_status(folder)
    done = CliRunner().invoke(app, ["report", "--live", str(folder)])
    assert done.exit_code != 0
    assert not isinstance(done.exception, SystemExit)
