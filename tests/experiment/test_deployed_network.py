"""A deployment over a network: each machine a network namespace with an address of its own, links that fail.

What runs is what an engineer types: ``fedmerge deployment start`` on each machine, ``run`` on the server's.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.processes import Program, Programs
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.workflows.run import run

ROOT = Path(__file__).resolve().parents[2]
FEDMERGE = [sys.executable, "-m", "fedmerge"]
NAMES = ("alpha", "beta")
SMALL = ["training.rounds=1", "fusion=[]", "testtime=[]", "evaluation.streams=[iid]"]


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


def namespaces_can_be_made():
    """Whether this process may make network namespaces and links between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"fm{os.getpid()}x"
    made = ip("netns", "add", name).returncode == 0
    linked = made and ip(*veth((name, f"{name}a"), (name, f"{name}b"))).returncode == 0
    ip("netns", "del", name)
    return linked


def veth(one, other):
    """A link between two machines: what makes it, for (machine, name of the link there) at both ends."""
    return (
        "link",
        "add",
        one[1],
        "netns",
        one[0],
        "type",
        "veth",
        "peer",
        "name",
        other[1],
        "netns",
        other[0],
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(os.environ.get("FEDMERGE_SLOW")) and not namespaces_can_be_made(),
        reason="network namespaces need iproute2 (apt install iproute2) and root",
    ),
]


class Network:
    """A server and hospitals, each on a machine with one link to the server: 10.77.K.1 and 10.77.K.2."""

    def __init__(self, names):
        self.tag = f"fm{os.getpid()}"
        self.names = names
        self._do("netns", "add", self.machine("server"))
        self._do("-n", self.machine("server"), "link", "set", "lo", "up")
        for k, name in enumerate(names, 1):
            there, here = (self.machine(name), f"{self.tag}h{k}"), (self.machine("server"), f"{self.tag}s{k}")
            self._do("netns", "add", there[0])
            self._do("-n", there[0], "link", "set", "lo", "up")
            self._do(*veth(there, here))
            for (machine, link), number in ((here, 1), (there, 2)):
                self._do("-n", machine, "address", "add", f"10.77.{k}.{number}/24", "dev", link)
                self._do("-n", machine, "link", "set", link, "up")

    def machine(self, name):
        return f"{self.tag}-{name}"

    def on(self, name, *command):
        """The command that runs ``command`` on a machine."""
        return ["ip", "netns", "exec", self.machine(name), *command]

    def link(self, name, state):
        """Cut or restore the link of a hospital, at its own end."""
        k = self.names.index(name) + 1
        self._do("-n", self.machine(name), "link", "set", f"{self.tag}h{k}", state)

    def address(self, name):
        """The server's address, as this hospital sees it."""
        return f"10.77.{self.names.index(name) + 1}.1"

    def close(self):
        for name in (*self.names, "server"):
            ip("netns", "del", self.machine(name))

    def _do(self, *arguments):
        done = ip(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.fixture
def network():
    made = Network(NAMES)
    yield made
    made.close()


@pytest.fixture
def programs(network):
    with Programs() as started:
        yield started


def starts(programs, network, name, folder, log):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return programs.start(network.on(name, *FEDMERGE, "deployment", "start", str(folder)), env, log)


def says(log, text):
    return lambda: log.is_file() and text in log.read_text(errors="replace")


@pytest.mark.timeout(1500)  # some minute and a half alone on two cores, but it may not be alone
def test_a_link_cut_and_restored_in_the_middle_of_a_round_changes_nothing(
    network, programs, site_files, remote_files, hashes, tmp_path
):
    """alpha loses its link when its first training has begun, for ten seconds."""
    config, nodes = remote_files
    for file in (tmp_path / "cohort.yaml", tmp_path / "remote.yaml"):
        spec = yaml.safe_load(file.read_text())
        spec["sites"] = [site for site in spec["sites"] if site["name"] != "gamma"]
        file.write_text(yaml.safe_dump(spec))
    server = ServerFolder.make(
        tmp_path / "server", [network.address(name) for name in NAMES], "0.0.0.0", 8000, 8001
    )
    up = starts(programs, network, "server", server.path, tmp_path / "server.log")
    up.wait_until(says(tmp_path / "server.log", "hospitals are served at"), 120, "serve")
    for node in nodes[:2]:
        name = node["site"]
        folder = NodeFolder.make(
            tmp_path / name, name, Path(node["cohort"]), f"{network.address(name)}:8000", server.authority
        )
        (folder.path / "policy.yaml").write_text("approval: any\nsuppress_below: 1\n")
        admit = [*FEDMERGE, "deployment", "admit", str(server.path), name, str(folder.public_key)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(network.on("server", *admit), env=env, check=True, capture_output=True)
        starts(programs, network, name, folder.path, tmp_path / f"{name}.log")
    changes = [word for change in SMALL for word in ("--set", change)]
    command = [*FEDMERGE, "deployment", "run", str(server.path), str(config), "--seed", "3", *changes]
    out = tmp_path / "deployed"
    asked = Program(
        network.on("server", *command, "--out", str(out)),
        os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        tmp_path / "run.log",
    )
    with asked:
        asked.wait_until(says(tmp_path / "alpha" / "supernode.log", "Receiving: train message"), 600, "train")
        network.link("alpha", "down")
        time.sleep(10)
        network.link("alpha", "up")
        asked.process.wait(600)
        assert asked.process.returncode == 0, asked.last_words()
    local = run(site_files, changes=SMALL, out=tmp_path / "local", seed=3)
    pooled = "pooled.safetensors"
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith(pooled)}
    assert hashes(out) == expected
    assert {"alpha", "beta"} <= {Path(name).stem for name in expected}
    failed = yaml.safe_load((out / "failures.json").read_text())
    assert {failure["where"] for failure in failed} <= {"pooled"}
