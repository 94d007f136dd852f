"""A real cluster of two nodes on this machine: attached to, one node killed, and left as it was found."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import fedmerge
from fedmerge.federation.deployment.serving import free_port

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedmerge[ray]'")

ROOT = Path(fedmerge.__file__).parents[1]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def processes(session):
    """The command lines of the processes of a session, zombies left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            if status[0] != "Z" and int(status[3]) == session:
                found.append((entry / "cmdline").read_text().replace("\0", " ").strip())
        except OSError:
            continue
    return found


class Node:
    """A ``ray start --block`` with everything it starts, in a session of its own."""

    def __init__(self, *arguments, log):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        environment |= TOKEN
        environment["GRPC_ENABLE_FORK_SUPPORT"] = (
            "false"  # gRPC's fork handlers crash Ray's server for clients
        )
        environment.pop("RAY_ADDRESS", None)
        shared = ["--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
        self.log = log
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", *shared, *arguments],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    @property
    def session(self):
        return self.process.pid

    def wait(self):
        """Until it says that it is there."""
        end = time.monotonic() + 240
        while "block forever" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise NotUp(self.log.read_text())
            time.sleep(0.2)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)
        self.process.wait()


class NotUp(Exception):
    """A node of Ray did not start."""


@contextlib.contextmanager
def two_nodes(tmp_path, folder):
    """Two nodes of one CPU each: (address, client port, [head, other]). Raises NotUp."""
    port, client = free_port(), free_port()
    nodes = []
    try:
        nodes.append(
            Node(
                "--head",
                f"--port={port}",
                f"--ray-client-server-port={client}",
                f"--temp-dir={folder}",
                "--include-dashboard=false",
                "--min-worker-port=0",
                "--max-worker-port=0",
                log=tmp_path / "head.log",
            )
        )
        nodes[0].wait()
        nodes.append(Node(f"--address=127.0.0.1:{port}", log=tmp_path / "node.log"))
        nodes[1].wait()
        yield f"127.0.0.1:{port}", client, nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.fixture
def cluster(tmp_path):
    """``two_nodes``; where Ray does not come up, for example on a port just taken, they are tried anew."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes are looked for in /proc, which this machine lacks")
    with contextlib.ExitStack() as stack:
        for attempt in range(3):
            folder = stack.enter_context(  # short: it holds sockets
                tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            )
            try:
                nodes = stack.enter_context(two_nodes(tmp_path, folder))
                break
            except NotUp:
                if attempt == 2:
                    raise
        yield nodes


def test_a_cluster_gives_the_bits_of_one_process_and_outlives_its_node_and_its_guests(cluster, tmp_path):
    """Attached as a client; then by address, with the second node killed while round 2 trains."""
    address, client, (head, other) = cluster
    driver = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("cluster_driver.py"),
            *(tmp_path, address, str(client), str(other.session)),
        ],
        env=os.environ | TOKEN | {"PYTHONPATH": str(ROOT)},
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
    left = processes(head.session)
    assert any("gcs_server" in line for line in left)  # the cluster runs on
    assert not [line for line in left if line.startswith("ray::Worker")]  # without us


def test_who_has_no_token_is_told_so(cluster):
    address, _, _ = cluster
    where = f"{{'kind': 'ray', 'address': '{address}'}}"
    code = f"from fedmerge.federation import open_backend\nwith open_backend({where}): pass"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=400
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
