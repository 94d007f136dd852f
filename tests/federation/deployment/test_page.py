"""The page shows what is there, whatever hospitals call it, asks nobody for anything, and changes nothing."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from fedmerge.federation.deployment.ago import ago
from fedmerge.federation.deployment.page import metrics, watch_app

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[2J"


def hospital(name, **fields):
    known = {"name": name, "node": 7, "status": "online", "heard": "2026-01-01T00:00:00Z", "ago": 5}
    return known | {"since": None, "round": 3, "failures": 0} | fields


def run(number, **fields):
    known = {
        "run": number, "folder": "/runs/chest", "submitted": "2026-01-01T00:00:00Z", "superlink": "running",
        "state": "running", "words": "running in round 3 of 5", "reason": "", "stage": "rounds", "round": 3,
        "rounds": 5, "progress": 0.4, "part": "seed-0/federation", "started": "", "changed": "", "resumed": 0,
        "heard": {}, "by hospital": {}, "waiting": [], "failures": [], "failed": 0, "again": "",
    }  # fmt: skip
    return known | fields


def status(**fields):
    known = {
        "kind": "server", "folder": "/srv/fusion", "at": "2026-01-01T00:00:05Z", "address": "0.0.0.0:8000",
        "up": True, "programs": {"flower-superlink": True}, "said": "", "waiting": [], "runs": [run(11)],
        "hospitals": [hospital("north"), hospital("south", status="offline", ago=7300, failures=2)],
        "expiries": [{"what": "server.crt", "until": "2028-01-01", "days": 700}],
    }  # fmt: skip
    return known | fields


@pytest.fixture
def client():
    def make(told):
        return TestClient(watch_app(lambda: told), base_url="http://127.0.0.1")

    return make


def test_what_hospitals_say_is_text_and_nothing_else(client):
    failure = {"round": 2, "phase": HOSTILE, "site": HOSTILE, "reason": HOSTILE, "then": HOSTILE}
    told = status(
        hospitals=[hospital(HOSTILE)],
        waiting=[HOSTILE],
        runs=[
            run(
                11, folder=HOSTILE, reason=HOSTILE, words=HOSTILE, again=HOSTILE, failures=[failure], failed=1
            )
        ],
    )
    page = client(told).get("/").text
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 10
    assert "{{ 7 * 7 }}" in page  # and it was not computed
    assert client(told).get("/status.json").json() == told


def test_the_page_asks_nobody_and_runs_nothing(client):
    answer = client(status()).get("/")
    assert not re.search(r"https?://|//[a-z]|<script|<img|<link|@import|url\(", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "north" in answer.text
    assert "2 h ago" in answer.text
    assert "40 %" in answer.text


def test_it_is_only_read_and_only_under_its_own_name(client):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/", "/metrics", "/status.json"):
            assert client(status()).request(method, path).status_code == 405
    assert client(status()).get("/other").status_code == 404
    foreign = client(status()).get("/", headers={"host": "evil.example"})
    assert foreign.status_code == 400
    assert "north" not in foreign.text


def test_metrics_are_what_prometheus_reads(client):
    name = 'a"b\\c\nd'
    told = status(
        hospitals=[hospital(name), hospital("never", status="registered", ago=None)], waiting=["never"]
    )
    answer = client(told).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["fedmerge_server_up",] == 1
    assert found["fedmerge_hospital_online", name] == 1
    assert found["fedmerge_hospital_last_seen_seconds", name] == 5
    assert ("fedmerge_hospital_last_seen_seconds", "never") not in found
    assert found["fedmerge_hospital_online", "never"] == 0
    assert found["fedmerge_hospital_waits_for_approval", "never"] == 1
    assert found["fedmerge_run_round", "11"] == 3
    states = {key[2]: value for key, value in found.items() if key[0] == "fedmerge_run_state"}
    assert sum(states.values()) == states["running"] == 1
    assert found["fedmerge_certificate_days_left", "server.crt"] == 700


def test_metrics_of_a_server_that_is_down_and_new():
    told = status(up=False, hospitals=[], runs=[], expiries=[])
    assert b"fedmerge_server_up 0.0" in metrics(told)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "never"), (-3, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7199, "119 min ago"),
     (7200, "2 h ago"), (172799, "47 h ago"), (172800, "2 days ago")],
)  # fmt: skip
def test_how_long_ago(seconds, words):
    assert ago(seconds) == words
