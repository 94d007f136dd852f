"""Folders of nodes on this machine, and what their people do."""

import contextlib
import time
from pathlib import Path

import psutil

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.policy.approvals import Approvals, Decision

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["training.rounds=1", "fusion=[mean]", "testtime=[]", "evaluation.streams=[iid]"]


def address(server):
    return f"127.0.0.1:{server.settings.port}"


def make_nodes(server, nodes, tmp_path):
    """Folders whose policy takes whatever keeps to the rest of it; these hospitals are small."""
    folders = [
        NodeFolder.make(
            tmp_path / f"node-{node['site']}",
            node["site"],
            Path(node["cohort"]),
            address(server),
            server.authority,
        )
        for node in nodes
    ]
    for folder in folders:
        (folder.path / "policy.yaml").write_text("approval: any\nsuppress_below: 1\n")
    return folders


def approve_when_asked(folder, told):
    """What a hospital's people do: look for the request, and approve it; its hash goes into ``told``."""
    approvals = Approvals(folder.path)
    until = time.monotonic() + 1000
    while not approvals.hashes() and time.monotonic() < until:
        time.sleep(0.5)
    (name,) = approvals.hashes()
    approvals.decide(approvals.find(name[:12]), Decision(True, "Ada"))
    told.append(name)


def statuses(server):
    return {name: status for name, status, _ in server.nodes()}


def admit_anew(server, folder):
    """Admit a hospital; another key of it, of a test before, is revoked first."""
    with contextlib.suppress(FedMergeError):
        server.revoke(folder.settings.site)
    server.admit(folder.settings.site, folder.public_key)


def of(process, *words):
    """Whether a process is alive and its command has one of these words."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            w in " ".join(process.cmdline()) for w in words
        )
    except psutil.NoSuchProcess:
        return False
