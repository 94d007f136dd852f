"""A deployment on this machine: every program a process of its own, TLS, keys; and the same bits."""

import shutil
import threading
from pathlib import Path

import psutil
import pytest
import yaml

from fedmerge.federation.deployment.serving import start_node
from fedmerge.federation.deployment.tasks import ANSWER
from fedmerge.federation.policy.audit import verify
from fedmerge.workflows.deployed import run_deployed
from fedmerge.workflows.inspecting import inspect_deployed
from fedmerge.workflows.run import run
from tests.experiment.deployed.nodes import (
    ROOT,
    SMALL,
    admit_anew,
    approve_when_asked,
    make_nodes,
    of,
    statuses,
)


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
