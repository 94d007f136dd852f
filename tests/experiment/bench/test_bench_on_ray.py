"""A study on Ray has the rows and weights of one in this process."""

import json
import secrets
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from ray_nodes import processes, two_nodes_up, user

from fedmerge import ModelPool, open_study
from fedmerge.workflows.bench.bench import bench

CLOCKS = ["seconds", "training_seconds"]


def same(one, other):
    pd.testing.assert_frame_equal(one.table.drop(columns=CLOCKS), other.table.drop(columns=CLOCKS))
    pd.testing.assert_frame_equal(one.coefficients, other.coefficients)
    assert weights(one) == weights(other) != {}


def weights(study):
    """The digest of every model of a study, by task and name."""
    pools = {path.parent for path in study.folder.glob("jobs/*/*/*.safetensors")}
    return {
        (path.parent.name, path.name, name): ModelPool(path).card(name).sha256
        for path in pools
        for name in ModelPool(path).names
    }


def test_the_rows_and_weights_are_those_of_one_process(own_ray, place, tmp_path):
    changes = ["set.seeds=[0]", "set.evaluation.shifts=[]"]
    on_ray = bench(
        place / "study.yaml",
        changes=changes,
        out=tmp_path / "ray",
        backend={"kind": "ray", "workers": 1},
    )
    same(on_ray, bench(place / "study.yaml", changes=changes, out=tmp_path / "here"))
    assert len(on_ray.coefficients) == 2 * 2 * 3 * 2  # variants, streams, batches of 16 of 48 images, sources


@pytest.mark.slow
def test_a_node_that_dies_costs_its_tasks_only(place, tmp_path):
    """Two nodes, attached to as a user would; one is killed when a third of the tasks are done."""
    fresh = user(tmp_path / "home", secrets.token_hex(32))
    out = tmp_path / "study"
    study = str(place / "study.yaml")
    with two_nodes_up(tmp_path, fresh) as (address, _, (_, other)):
        program = [sys.executable, "-m", "fedmerge", "bench", study, "--out", str(out), "--json"]
        running = subprocess.Popen(
            [*program, "--backend", "ray", "--address", address, "--workers", "2"],
            env=fresh,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        killer = threading.Thread(target=_kill_when, args=(out, other, 10))
        killer.start()
        told, said = running.communicate(timeout=500)
        killer.join()
        assert running.returncode == 0, said
        assert json.loads(told)["failed"] == {}
        assert processes(other.session) == []
    same(open_study(out), bench(study, out=tmp_path / "here"))


def _kill_when(out, node, done):
    end = time.monotonic() + 400
    while len(list(out.glob("jobs/*/done"))) < done and time.monotonic() < end:
        time.sleep(0.05)
    node.kill()
