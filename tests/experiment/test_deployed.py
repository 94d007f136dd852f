"""A deployment on this machine: every program a process of its own, TLS, keys; and the same bits."""

import contextlib
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.bundle import CLIENT
from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.identity import renew
from fedmerge.federation.deployment.keys import make_node_key
from fedmerge.federation.deployment.links import links, tasks
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.processes import Programs, environment
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port, keep_up, start_node, start_server
from fedmerge.federation.deployment.tasks import ANSWER
from fedmerge.federation.policy.approvals import Approvals, Decision
from fedmerge.federation.policy.audit import verify
from fedmerge.workflows.deployed import project, run_deployed
from fedmerge.workflows.inspecting import inspect_deployed
from fedmerge.workflows.run import run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["training.rounds=1", "fusion=[mean]", "testtime=[]", "evaluation.streams=[iid]"]


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


@pytest.mark.slow
@pytest.mark.timeout(1500)  # some minute and a half alone on two cores, but it may not be alone
def test_two_hospitals_on_their_own_give_the_same_bits(
    server, programs, site_files, remote_files, hashes, tmp_path
):
    """gamma stays at home: alpha and beta train for delta, each from its own file under its own key.

    beta's people are asked first, and approve while the run waits. Both sides' logs tell the same afterwards.
    """
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
    beta, approved = folders[1], list[str]()
    (beta.path / "policy.yaml").write_text("suppress_below: 1\n")
    people = threading.Thread(target=approve_when_asked, args=(beta, approved), daemon=True)
    people.start()
    deployed = run_deployed(
        server.path, config, changes=SMALL, out=tmp_path / "deployed", seed=3, patience=1000
    )
    local = run(site_files, changes=SMALL, out=tmp_path / "local", seed=3)
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith("pooled.safetensors")}
    assert hashes(deployed.folder) == expected
    assert {"alpha", "beta", "mean"} <= {Path(name).stem for name in expected}
    assert (deployed.folder / "report.html").is_file()
    assert statuses(server) == {"alpha": "online", "beta": "online"}
    family = psutil.Process().children(recursive=True)
    programs.close()
    assert not [
        process for process in family if of(process, "deployment.supernode", "flwr-clientapp", ANSWER)
    ]
    logs_agree(verify(server.path), verify(beta.path), approved)


def logs_agree(server, node, approved):
    """The hospital waited, was asked again, and answered; each model that left it came to the server."""
    events = [entry["event"] for entry in node]
    assert events[:2] == ["node started", "waits for approval"]
    assert events[events.index("decision") :].count("waits for approval") == 0
    assert events[-1] == "node stopped"
    answered = [entry for entry in node if entry["event"] == "answered"]
    assert {entry["proposal"] for entry in answered} == set(approved)
    assert {entry["server"] for entry in answered} == {node[1]["server"]} != {"none"}
    came = [entry for entry in server if entry["event"] == "answered" and entry["hospital"] == "beta"]
    assert [entry.get("model_in") for entry in came] == [entry.get("model_out") for entry in answered]
    assert sum("model_in" in entry for entry in came) == 2  # one round, and the fine-tuning
    asked = [entry for entry in server if entry["event"] == "asked" and entry["hospital"] == "beta"]
    assert {entry["model_out"] for entry in asked if "model_out" in entry} == {
        entry["model_in"] for entry in answered if "model_in" in entry
    }
    assert [entry["reason"] for entry in server if entry["event"] == "refused"] != []
    assert {"admitted", "run submitted", "run ended"} <= {entry["event"] for entry in server}


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
@pytest.mark.timeout(1500)
def test_plug_ins_of_a_deployment_run_where_owners_listed_them_and_are_refused_elsewhere_by_name(
    server, programs, site_files, remote_files, hashes, tmp_path
):
    """alpha and beta have looked at the aggregator and installed it; gamma has not, and is left out.

    The fusion method and the metric stay at the server, which no hospital needs to allow.
    """
    config, nodes = remote_files
    own = [tmp_path / f"{name}.py" for name in ("fusion", "aggregator", "metric")]
    for path in own:
        shutil.copy(ROOT / "docs" / "extending" / "examples" / path.name, path)
    folders = make_nodes(server, nodes, tmp_path)
    for folder in folders:
        admit_anew(server, folder)
        if folder.settings.site != "gamma":
            shutil.copy(own[1], folder.path / "aggregator.py")
            with (folder.path / "policy.yaml").open("a") as policy:
                policy.write("plugins: [aggregator.py]\n")
        start_node(programs, folder)
    changes = ["training.rounds=1", "testtime=[]", "evaluation.streams=[iid]"]
    changes += ["fusion=[mean, {method: first-heavy, times: 3.0}]"]
    changes += ["federation={aggregate: {method: capped-mean, most: 20}}"]
    given = {"changes": changes, "seed": 3, "plugins": [str(path) for path in own]}
    deployed = run_deployed(server.path, config, out=tmp_path / "deployed", patience=1000, **given)
    cohort = tmp_path / "cohort.yaml"
    spec = yaml.safe_load(cohort.read_text())
    spec["sites"] = [site for site in spec["sites"] if site["name"] != "gamma"]
    cohort.write_text(yaml.safe_dump(spec))
    local = run(site_files, out=tmp_path / "local", **given)
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith("pooled.safetensors")}
    assert hashes(deployed.folder) == expected
    assert {"alpha", "beta", "first-heavy"} <= {Path(name).stem for name in expected}
    assert (deployed.table["log_loss"] > 0).all()
    (reason,) = deployed.failures.query("site == 'gamma'")["reason"].unique()
    assert "aggregator.py" in reason
    assert "fusion.py" not in reason
    reasons = [entry["reason"] for entry in verify(folders[2].path) if entry["event"] == "refused"]
    assert any("aggregator.py" in each for each in reasons)


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


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_sums_under_masks_over_three_hospitals_give_the_same_bits_and_they_can_be_inspected(
    server, programs, site_files, remote_files, hashes, tmp_path
):
    """A fusion from sums over images that stay; the server sees their total alone."""
    config, nodes = remote_files
    for folder in make_nodes(server, nodes, tmp_path):
        (folder.path / "policy.yaml").write_text(
            "approval: any\nsuppress_below: 1\nsums: true\ninspection: true\ninspection_checks: true\n"
            "peers: first-use\n"
        )
        node = yaml.safe_load((folder.path / "node.yaml").read_text())  # too few images for their layers
        (folder.path / "node.yaml").write_text(yaml.safe_dump(node | {"sums": {"rows": "pixels"}}))
        admit_anew(server, folder)
        start_node(programs, folder)
    data = "fusion_data={from: hospitals, images: 99, split: train}"
    changes = [*SMALL, "fusion=[hf]", data, "federation.secure_statistics=true"]
    deployed = run_deployed(
        server.path, config, changes=changes, out=tmp_path / "deployed", seed=3, patience=1000
    )
    failed = deployed.failures[deployed.failures["where"] != "pooled"]  # images stay at the hospitals
    assert failed.empty, "; ".join(failed["reason"])
    local = run(site_files, changes=changes, out=tmp_path / "local", seed=3)
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith("pooled.safetensors")}
    assert hashes(deployed.folder) == expected
    assert any(Path(name).stem == "hf" for name in expected)
    found = inspect_deployed(server.path, minimum=5, patience=600, checks=True)
    assert [told["hospital"] for told in found] == ["alpha", "beta", "gamma"]
    assert all(len(told["intensities"]) == 16 and told["classes"] for told in found), found
    assert all(told["checks"]["middle"] is not None for told in found), found
