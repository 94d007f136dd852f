"""Nodes of a Ray cluster on this machine, started as the documentation says, each in a session of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import fedmerge
from fedmerge.federation.deployment.serving import free_port

ROOT = Path(fedmerge.__file__).parents[1]


def user(home, token=None):
    """The environment of a fresh shell of a user with this home, with a token in its file or without."""
    if token is not None:
        (home / ".ray").mkdir(parents=True, exist_ok=True)
        (home / ".ray" / "auth_token").write_text(token)
    others = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return others | {"PYTHONPATH": str(ROOT), "HOME": str(home)}


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

    def __init__(self, *arguments, log, environment):
        quiet = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        quiet["GRPC_ENABLE_FORK_SUPPORT"] = "false"  # gRPC's fork handlers crash Ray's server for clients
        shared = ["--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
        self.log = log
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", *shared, *arguments],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment | {"RAY_AUTH_MODE": "token"} | quiet,
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
def two_nodes(tmp_path, folder, environment):
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
                environment=environment,
            )
        )
        nodes[0].wait()
        nodes.append(Node(f"--address=127.0.0.1:{port}", log=tmp_path / "node.log", environment=environment))
        nodes[1].wait()
        yield f"127.0.0.1:{port}", client, nodes
    finally:
        for node in nodes:
            node.kill()


@contextlib.contextmanager
def two_nodes_up(tmp_path, environment):
    """``two_nodes``; where Ray does not come up, for example on a port just taken, they are tried anew."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes are looked for in /proc, which this machine lacks")
    with contextlib.ExitStack() as stack:
        for attempt in range(3):
            folder = stack.enter_context(  # short: it holds sockets
                tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            )
            try:
                nodes = stack.enter_context(two_nodes(tmp_path, folder, environment))
                break
            except NotUp:
                if attempt == 2:
                    raise
        yield nodes
