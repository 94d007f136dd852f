"""What a service keeps: numbers of each batch, no image; and its alarm for streams that change."""

from __future__ import annotations

import csv
import io
import math
import re
import sqlite3
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from fedmerge.serving.drift import LIMIT, REFERENCE, SLACK, Cusum, DriftAlarm
from fedmerge.serving.history import History
from fedmerge.serving.limits import Limits
from tests.facts import refused
from tests.serving.conftest import HOSPITALS, drawn, npz


def test_no_image_is_on_the_disk(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = start(history_file=tmp_path / "history.sqlite")
    images = drawn(4, 0)
    answer = client.post("/v1/batches", content=npz(images)).json()
    (row,) = client.get("/v1/history").json()["batches"]
    assert row["encoder"] == answer["leaning"]["encoder"]
    assert row["models"] == answer["fingerprint"]
    assert sum(row["predicted"].values()) == row["images"] == 4
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"history.sqlite"}
    for path in tmp_path.iterdir():
        assert images[0].tobytes() not in path.read_bytes()


def test_images_are_kept_where_that_is_asked_for(start, tmp_path):
    images = drawn(2, 0)
    start(keep=tmp_path).post("/v1/batches", content=npz(images)).raise_for_status()
    found = sorted(tmp_path.rglob("*.png"))
    assert [path.parent.name for path in found] == ["batch-000001"] * 2
    assert found[0].relative_to(tmp_path).parts[:2] == ("local", "default")
    assert [np.array(Image.open(path)).tolist() for path in found] == images.tolist()


def test_the_history_keeps_the_latest_and_is_there_again(tmp_path):
    path = tmp_path / "h.sqlite"

    def row(number):
        names = "at client stream batch images models encoder head source_entropies entropy confidence"
        empty = dict.fromkeys(f"{names} predicted fallback drift seconds".split())
        return empty | {"client": "me", "stream": "a" if number % 2 else "b", "batch": number}

    history = History(path, most=5)
    for number in range(8):
        history.add(row(number))
    history.close()
    again = History(path, most=5)
    assert [each["batch"] for each in again.rows("me")] == [3, 4, 5, 6, 7]
    assert [each["batch"] for each in again.rows("me", "a", limit=2)] == [5, 7]
    assert [each["batch"] for each in again.rows("me", after=7)] == [7]
    assert again.rows("you") == []
    again.close()
    again.add(row(9))  # the disk does not take it: that is said, and nothing fails
    assert again.fault
    (tmp_path / "other").write_text("no database, and longer than a header of SQLite would be" * 9)
    with refused("other"):
        History(tmp_path / "other", 5)
    with sqlite3.connect(tmp_path / "foreign.sqlite") as foreign:
        foreign.execute("CREATE TABLE batches (x)")
    with refused("foreign.sqlite"):
        History(tmp_path / "foreign.sqlite", 5)


def test_a_history_that_cannot_be_written_is_said(start, tmp_path):
    client = start(history_file=tmp_path / "h.sqlite", limits=Limits())
    assert client.get("/v1/health").json()["status"] == "ok"
    with sqlite3.connect(tmp_path / "h.sqlite") as other:
        other.execute("DROP TABLE batches")
    assert client.post("/v1/batches", content=npz(drawn(1, 0))).status_code == 200
    assert client.get("/v1/health").json()["status"] == "degraded"
    assert "fedmerge_serve_history_faults_total 1.0" in client.get("/metrics").text


def test_history_as_csv(start):
    client = start()
    for seed in range(3):
        client.post("/v1/batches", content=npz(drawn(2, seed)))
    answer = client.get("/v1/history?format=csv&limit=2")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert answer.headers["content-type"].startswith("text/csv")
    assert [row["batch"] for row in rows] == ["2", "3"]
    assert not re.search(r"(^|,)[=+@-]", answer.text, re.MULTILINE)  # a class is called =dog


def test_metrics_count(start):
    client = start()
    for _ in range(2):
        client.post("/v1/batches", content=npz(drawn(3, 0)))
    client.post("/v1/batches", content=b"x")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["fedmerge_serve_batches_total",] == 2
    assert found["fedmerge_serve_images_total",] == 6
    assert found["fedmerge_serve_refused_total", "415"] == 1
    assert found["fedmerge_serve_streams",] == 1
    assert found["fedmerge_serve_seconds_count", "node"] == 2
    shares = [found["fedmerge_serve_share", name, "encoder"] for name in HOSPITALS]
    assert sum(shares) == pytest.approx(1, abs=1e-6)


def test_cusum_by_hand():
    """Mean 0.5 and deviation 0.1, half above and half below: then 0.8 is z = 3 and adds 2.5 each time."""
    watch, half = Cusum(), REFERENCE // 2
    spread = 0.1 * math.sqrt((REFERENCE - 1) / REFERENCE)
    for value in [0.5 - spread, 0.5 + spread] * half:
        assert watch.see(value) == 0
    assert watch.mean == pytest.approx(0.5)
    assert watch.deviation == pytest.approx(0.1)
    levels = [watch.see(0.8) for _ in range(5)]
    assert levels == pytest.approx([(3 - SLACK) * n / LIMIT for n in range(1, 6)])
    assert watch.see(math.nan) == levels[-1]
    assert max(watch.down, watch.up) == watch.up
    for _ in range(9):
        watch.see(0.2)
    assert watch.down / LIMIT > 1


def test_an_alarm_goes_off_once_names_the_reason_and_stays():
    alarm, rng = DriftAlarm(), np.random.default_rng(0)
    for _ in range(100):
        assert alarm.see(0.3 + 0.02 * rng.normal(), ("north", "south"), (0.6, 0.4)) == ()
    found = [alarm.see(0.3, ("north", "south"), (0.1, 0.9)) for _ in range(10)]
    reasons = next(each for each in found if each)
    assert "north" in reasons[0]
    assert "0.60" in reasons[0]
    assert alarm.since == 101 + [bool(each) for each in found].index(True)
    assert alarm.see(0.3, ("north", "south"), (0.6, 0.4)) == reasons
    alarm.reset()
    assert (alarm.since, alarm.see(0.9, (), None)) == (None, ())


def test_the_page_loads_nothing_from_elsewhere(start):
    client = start()
    page = client.get("/")
    assert "Research use, not a medical device" in page.text
    folder = files("fedmerge.serving") / "page"
    for name in ("index.html", "app.js", "style.css"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|innerHTML|eval\(", text)
    assert "'unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"style=|onclick=|<script>", page.text)
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', page.text):
        assert client.get(path).status_code == 200
