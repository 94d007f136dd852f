"""A deployment keeps out strangers, plain text, code that comes with a run, and whoever was revoked."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from facts import refused

from fedmerge.federation.deployment.bundle import CLIENT
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.identity import renew
from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.deployment.links import links, tasks
from fedmerge.federation.deployment.processes import environment
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port, keep_up, start_node
from fedmerge.federation.policy.audit import verify
from fedmerge.workflows.deployed import project, run_deployed
from tests.experiment.deployed.nodes import SMALL, address, admit_anew, make_nodes, statuses


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_code_that_comes_with_a_run_is_not_run_and_the_server_hears_why(
    server, programs, remote_files, tmp_path
):
    """Somebody on the server's machine hands in an app whose hospital's side writes a file."""
    config, nodes = remote_files
    (folder,) = make_nodes(server, nodes[2:3], tmp_path)
    server.admit(folder.settings.site, folder.public_key)
    start_node(programs, folder)
    app, proof = project(tmp_path / "app"), tmp_path / "proof"
    (app / "evil.py").write_text(
        f"open({str(proof)!r}, 'w').write('run')\n"
        "from fedmerge.workflows import flower_app\n\nclient = flower_app.client\n"
    )
    settings = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(settings.replace(CLIENT, "evil:client"))
    until = time.monotonic() + 300
    while statuses(server)["gamma"] != "online" and time.monotonic() < until:
        time.sleep(1)
    given = {"config": str(config), "out": str(tmp_path / "out"), "patience": 100.0, "seed": 3}
    run = server.flower.submit(app, given | {"admitted": str(server.admitted)})
    with refused("finished:failed", "ended"):
        server.flower.wait(run)
    assert not proof.exists()
    for path in (server.path, folder.path):
        refusals = [entry["reason"] for entry in verify(path) if entry["event"] == "refused"]
        assert any("evil.py" in reason and "no code that a server sends" in reason for reason in refusals)


@pytest.mark.slow
def test_a_stranger_and_one_who_cannot_trust_the_server_stay_outside(
    server, programs, remote_files, tmp_path
):
    """A node with a key that nobody admitted; one, admitted, that was given another server's authority."""
    _, nodes = remote_files
    stranger, deceived, _ = make_nodes(server, nodes, tmp_path)
    other = ServerFolder.make(tmp_path / "other", ["127.0.0.1"], "127.0.0.1", free_port(), free_port())
    (deceived.path / "ca.crt").write_bytes(other.authority.read_bytes())
    number = server.admit("deceived", deceived.public_key)
    for folder, reason in (
        (stranger, "does not know this key"),
        (deceived, "CERTIFICATE_VERIFY_FAILED"),
    ):
        node, _ = start_node(programs, folder)
        with refused("supernode", "ended", reason):
            keep_up([node])
    assert {number: "registered"}.items() <= server.flower.nodes().items()
    assert len(server.nodes()) == len(server.hospitals())


def test_plain_text_gets_no_answer(server, programs, tmp_path):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{address(server)}/health", timeout=10, trust_env=False)
    command = ["flower-supernode", "--insecure", "--superlink", address(server), "--port", str(free_port())]
    node = programs.start(command, server.env, tmp_path / "log")
    node.wait_until(lambda: "Connection attempt failed" in node.log.read_text(), 90, "fail to connect")
    assert node.running  # it may go on trying
    assert "SuperNode ID" not in node.log.read_text()


def test_the_open_door_starts_no_run_and_admits_nobody(server, tmp_path):
    """With the right authority, too: what hospitals reach is not what the server's people reach."""
    (tmp_path / "config.toml").write_text(connection("outside", address(server), server.authority))
    outside = Flower(environment(tmp_path), "outside")
    database = server.path / "superlink.db"
    before = links(database).keys(), tasks(database).keys()
    assert database.is_file()
    with refused("flwr", "supernode", "refused"):
        outside.register(make_node_key(tmp_path), "stranger")
    with refused("flwr", "run", "refused"):
        outside.submit(project(tmp_path / "app"), {"config": "quickstart"})
    assert (links(database).keys(), tasks(database).keys()) == before


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_is_revoked_and_the_certificate_renewed_in_the_middle_of_a_run(
    server, programs, remote_files, tmp_path
):
    """gamma is out when it has begun to train; the run goes on over the new certificate without it."""
    config, nodes = remote_files
    started = {}
    for folder in make_nodes(server, nodes, tmp_path):
        admit_anew(server, folder)
        started[folder.settings.site] = start_node(programs, folder)
    with ThreadPoolExecutor() as other:
        done = other.submit(
            run_deployed, server.path, config, changes=[*SMALL, "training.rounds=2", "fusion=[]"],
            out=tmp_path / "deployed", seed=3,
        )  # fmt: skip
        gamma, alpha = (started[name][0] for name in ("gamma", "alpha"))
        gamma.wait_until(lambda: "train message" in gamma.log.read_text(), 900, "be asked to train")
        server.revoke("gamma")
        renew(server)
        result = done.result()
    assert {"alpha", "beta"} <= {Path(name).stem for name in result.folder.glob("*/*/pool/*.safetensors")}
    failed = json.loads((result.folder / "failures.json").read_text())
    assert any("gamma" in json.dumps(failure) for failure in failed)
    assert {"alpha": "online", "beta": "online"}.items() <= statuses(server).items()
    assert "gamma" not in statuses(server)
    gamma.process.wait(120)
    assert alpha.running
    key = tmp_path / "node-gamma" / "node.pub"
    with refused("flwr", "supernode", "refused"):
        server.admit("gamma", key)  # a key that was revoked once
