"""``flwr run`` under Flower's own simulation: separate processes, and the same bits as in this process."""

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
import yaml
from facts import refused

from fedmerge.federation.deployment.flower import Flower, connection
from fedmerge.federation.deployment.processes import Programs, environment
from fedmerge.federation.deployment.serving import free_port
from fedmerge.workflows.run import run

ROOT = Path(__file__).resolve().parents[2]
NO_RAY = importlib.util.find_spec("ray") is None


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    """A SuperLink of our own in simulation mode; it and all it starts end with these tests."""
    home, port = tmp_path_factory.mktemp("flwr"), free_port()
    (home / "config.toml").write_text(connection("here", f"127.0.0.1:{port}", None))
    env = environment(home, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    database = home / "superlink.db"  # asking the SuperLink itself takes a process each time
    command = [
        "flower-superlink",
        "--simulation",
        "--insecure",
        "--port",
        str(port),
        "--database",
        str(database),
    ]
    with Programs() as programs:
        superlink = programs.start(command, env, home / "log")
        superlink.wait_until(lambda: answers(port), 60, "answer")
        yield Flower(env, "here", database)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


FAULTS = [
    {"kind": "crash", "site": "alpha", "rounds": [1], "attempts": 1},
    {"kind": "hang", "site": "beta", "rounds": [1]},
    {"kind": "label-flip", "site": "gamma", "rounds": [2]},
]


@pytest.mark.skipif(NO_RAY, reason="Flower's simulation needs ray: pip install 'flwr[simulation]'")
def test_flwr_run_in_simulation_gives_the_same_bits(simulation, site_files, hashes, tmp_path):
    """Also of fault injection: who is asked again, who is left out, and what else it did."""
    experiment = yaml.safe_load(site_files.read_text())
    experiment["federation"] = {"faults": FAULTS, "on_failure": "retry", "deadline": 600}
    site_files.write_text(yaml.safe_dump(experiment))
    out = tmp_path / "flower"
    nodes = {"num-supernodes": 3, "client-resources-num-cpus": 1, "init-args-num-cpus": 1}
    submitted = simulation.submit(ROOT, {"config": str(site_files), "seed": 3, "out": str(out)}, nodes)
    local = run(site_files, out=tmp_path / "local", seed=3)
    simulation.wait(submitted, patience=300)
    assert hashes(out) == hashes(local.folder)
    assert (out / "report.html").is_file()
    assert json.loads((out / "failures.json").read_text()) == json.loads(
        local.failures.to_json(orient="records")
    )
    assert list(local.failures["then"]) == ["asked again", "left out", "counted"]


OWN = {
    "plugins": [f"{name}.py" for name in ("fusion", "aggregator", "metric", "network")],
    "model": {"name": "tiny-mlp", "options": {"width": 8}},
    "fusion": ["mean", {"method": "first-heavy", "times": 3.0}],
    "testtime": [],
}


@pytest.mark.slow
@pytest.mark.skipif(NO_RAY, reason="Flower's simulation needs ray: pip install 'flwr[simulation]'")
def test_plug_ins_beside_a_configuration_work_in_flwr_run_with_the_same_bits(
    simulation, site_files, hashes, tmp_path
):
    """A network and an aggregator, which the hospitals' processes need, a fusion method and a metric."""
    for name in OWN["plugins"]:
        shutil.copy(ROOT / "docs" / "extending" / "examples" / name, tmp_path / name)
    experiment = yaml.safe_load(site_files.read_text()) | OWN
    experiment["federation"] = {"aggregate": {"method": "capped-mean", "most": 20}}
    site_files.write_text(yaml.safe_dump(experiment))
    out = tmp_path / "flower"
    nodes = {"num-supernodes": 3, "client-resources-num-cpus": 1, "init-args-num-cpus": 1}
    submitted = simulation.submit(ROOT, {"config": str(site_files), "seed": 3, "out": str(out)}, nodes)
    local = run(site_files, out=tmp_path / "local", seed=3)
    simulation.wait(submitted, patience=600)
    assert hashes(out) == hashes(local.folder)
    assert {"first-heavy", "alpha", "beta", "gamma"} <= {Path(name).stem for name in hashes(out)}
    table = pd.read_parquet(out / "results.parquet").set_index("method")
    assert (table["log_loss"] > 0).all()
    assert (table.loc["first-heavy", "log_loss"].to_numpy() != table.loc["mean", "log_loss"].to_numpy()).any()


@pytest.mark.slow
@pytest.mark.skipif(NO_RAY, reason="Flower's simulation needs ray: pip install 'flwr[simulation]'")
def test_a_run_that_fails_is_told_apart_from_one_that_ended_well(simulation):
    """``flwr run`` itself says nothing of it and exits with 0."""
    submitted = simulation.submit(ROOT, {"config": "quick-start"}, {"num-supernodes": 1})
    with refused("quick-start", "configuration"):
        simulation.wait(submitted, patience=300)
