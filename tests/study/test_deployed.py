"""A deployment on this machine: every program a process of its own, TLS, keys; and the same bits."""

import os
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.folders import NodeFolder, ServerFolder
from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.deployment.processes import Programs, environment
from fedmerge.federation.deployment.serving import free_port, keep_up, start_node, start_server
from fedmerge.study.deployed import project, run_deployed
from fedmerge.study.run import run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["training.rounds=1", "fusion=[mean]", "testtime=[]", "deployment.streams=[iid]"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For all programs; they inherit the environment."""
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    yield
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """SuperLink and gate, up."""
    path = tmp_path_factory.mktemp("deployment") / "server"
    folder = ServerFolder.make(path, ["127.0.0.1"], "127.0.0.1", free_port(), free_port())
    with Programs() as programs:
        up = start_server(programs, folder)
        yield folder
        assert [program.running for program in up] == [True, True]


@pytest.fixture
def programs():
    with Programs() as started:
        yield started


def address(server):
    return f"127.0.0.1:{server.settings.port}"


def make_nodes(server, nodes, tmp_path):
    return [
        NodeFolder.make(
            tmp_path / f"node-{node['site']}",
            node["site"],
            Path(node["cohort"]),
            address(server),
            server.authority,
        )
        for node in nodes
    ]


def statuses(server):
    return {name: status for name, status, _ in server.nodes()}


@pytest.mark.timeout(1500)  # some minute and a half alone on two cores, but it may not be alone
@pytest.mark.usefixtures("words_for_figures")
def test_two_hospitals_on_their_own_give_the_same_bits(
    server, programs, site_files, remote_files, hashes, tmp_path
):
    """gamma stays at home: alpha and beta train for delta, each from its own file under its own key."""
    config, nodes = remote_files
    cohort = tmp_path / "cohort.yaml"
    for file in (cohort, tmp_path / "remote.yaml"):
        spec = yaml.safe_load(file.read_text())
        spec["sites"] = [site for site in spec["sites"] if site["name"] != "gamma"]
        file.write_text(yaml.safe_dump(spec))
    folders = make_nodes(server, nodes[:2], tmp_path)
    for folder in folders:
        server.admit(folder.settings.site, folder.public_key)
        start_node(programs, folder)
    deployed = run_deployed(server.path, config, changes=SMALL, out=tmp_path / "deployed", seed=3)
    local = run(site_files, changes=SMALL, out=tmp_path / "local", seed=3)
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith("pooled.safetensors")}
    assert hashes(deployed.folder) == expected
    assert {"alpha", "beta", "mean"} <= {Path(name).stem for name in expected}
    assert (deployed.folder / "report.html").is_file()
    assert statuses(server) == {"alpha": "online", "beta": "online"}
    family = psutil.Process().children(recursive=True)
    programs.close()
    assert not [process for process in family if of(process, "flower-supernode", "flwr-clientapp")]


def of(process, *words):
    """Whether a process is alive and its command has one of these words."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            w in " ".join(process.cmdline()) for w in words
        )
    except psutil.NoSuchProcess:
        return False


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
        with pytest.raises(FedMergeError, match=f"flower-supernode ended: .*{reason}"):
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
    before = server.flower.nodes()
    with pytest.raises(FedMergeError, match="flwr supernode was refused"):
        outside.register(make_node_key(tmp_path), "stranger")
    with pytest.raises(FedMergeError, match="flwr run was refused"):
        outside.submit(project(tmp_path / "app"), {"config": "quickstart"})
    assert server.flower.nodes() == before
