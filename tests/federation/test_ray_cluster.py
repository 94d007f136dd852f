"""A real cluster of two nodes on this machine: attached to, one node killed, and left as it was found."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_nodes import ROOT, processes, two_nodes_up, user

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedmerge[ray]'")
pytestmark = pytest.mark.slow  # nodes of their own; ``cluster/test_access.py`` is the small version


@pytest.fixture
def fresh(tmp_path):
    """A fresh shell of the user who started the cluster."""
    return user(tmp_path / "home", secrets.token_hex(32))


@pytest.fixture
def cluster(tmp_path, fresh):
    with two_nodes_up(tmp_path, fresh) as nodes:
        yield nodes


def test_a_cluster_gives_the_bits_of_one_process_and_outlives_its_node_and_its_guests(
    cluster, fresh, tmp_path
):
    """Attached as a client; then by address, with the second node killed while round 2 trains."""
    address, client, (head, other) = cluster
    driver = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("cluster_driver.py"),
            *(tmp_path, address, str(client), str(other.session)),
        ],
        env=fresh,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert driver.returncode == 0, driver.stdout
    told = json.loads((tmp_path / "told.json").read_text())

    everyone = {str(round): ["h0", "h1", "h2", "h3"] for round in (1, 2, 3)}
    assert told["client"] == told["local"]
    assert told["client"]["trained"] == everyone

    killed = told["killed"]
    assert killed["failures"]
    for failure in killed["failures"]:
        assert failure["where"] == "round 2 (train)"
        assert "worker process ended before it answered" in failure["reason"]
    assert killed["trained"]["1"] == killed["trained"]["3"] == everyone["1"]
    assert len(killed["trained"]["2"]) == 4 - len(killed["failures"])

    assert processes(other.session) == []
    end = time.monotonic() + 60
    while any(line.startswith("ray::Worker") for line in processes(head.session)):
        assert time.monotonic() < end  # the cluster runs on without us
        time.sleep(0.5)
    assert any("gcs_server" in line for line in processes(head.session))


@pytest.mark.parametrize("kind", ["address", "client"])
def test_who_has_no_token_is_told_so(cluster, tmp_path, kind):
    address, client, _ = cluster
    if kind == "client":
        address = f"ray://127.0.0.1:{client}"
    where = f"{{'kind': 'ray', 'address': '{address}'}}"
    code = f"from fedmerge.federation import open_backend\nwith open_backend({where}): pass"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=user(tmp_path / "other"),
        capture_output=True,
        text=True,
        timeout=400,
    ).stderr
    assert f"the Ray cluster at {address} asks for a token" in said.splitlines()[-1]


@pytest.mark.parametrize("how", ["leave", "be killed"])
def test_a_ray_of_our_own_ends_with_the_run(how):
    """A program in a session of its own leaves no process; Ray's agents need a minute if it is killed."""
    code = (
        "import sys, time\n"
        "from fedmerge.federation import open_backend\n"
        "with open_backend({'kind': 'ray', 'workers': 1}):\n"
        "    print('there', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "there\n"
        assert any("raylet" in line for line in processes(run.pid))
        if how == "leave":
            run.communicate("\n", timeout=240)
        else:
            run.kill()
        end = time.monotonic() + 120
        while (left := working(run.pid, how)) and time.monotonic() < end:
            time.sleep(0.2)
        assert left == []
        assert run.wait(60) == (0 if how == "leave" else -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def working(session, how):
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent") if how == "be killed" else ()
    return [line for line in processes(session) if line not in agents]
