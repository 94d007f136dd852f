"""Where the hospitals work changes no bit of a run."""

import pandas as pd
import pytest
from facts import refused

import fedmerge as fm
from fedmerge.models import ModelPool, state_hash


def hashes(result):
    """Of every model of a run: the hospitals', pooled training's, the fused ones."""
    found = [path.parent for path in result.folder.rglob("*.safetensors")]
    folders = sorted({folder for folder in found if "journal" not in folder.parts})
    return {
        (str(folder.relative_to(result.folder)), name): state_hash(
            ModelPool(folder, create=False).state(name)
        )
        for folder in folders
        for name in ModelPool(folder, create=False).names
    }


def same(result, expected):
    scores = ["method", "site", "stream", "accuracy", "loss"]
    kept = [column for column in scores if column in expected.table]
    assert result.failures.empty
    assert hashes(result) == hashes(expected)
    assert result.table[kept].equals(expected.table[kept])


@pytest.mark.slow
def test_ray_with_one_worker_and_one_a_hospital_gives_the_bits_of_one_process(experiment, own_ray, tmp_path):
    given = experiment | {"threads": 1, "fusion": ["mean", "greedy"]}
    local = fm.run(given, out=tmp_path / "local")
    assert len(hashes(local)) >= 3 + 1 + 2
    seen = []
    for workers in (1, 3):
        where = fm.BackendConfig(kind="ray", workers=workers)
        out = tmp_path / str(workers)
        same(fm.run(given, out=out, backend=where, progress=lambda *step: seen.append(step)), local)
    ends = [text for text, done, total in seen if text.startswith("seed 0: training,") and done == total]
    assert len(ends) == 2  # once a run, with its last training


def test_ray_with_two_workers_and_masked_sums_gives_the_bits_of_one_process(experiment, own_ray, tmp_path):
    data = {"from": "hospitals", "images": 54, "split": "train"}
    given = experiment | {"threads": 1, "fusion": ["hf"], "fusion_data": data, "testtime": []}
    given |= {"federation": {"secure_statistics": True}}
    local = fm.run(given, out=tmp_path / "local")
    same(fm.run(given, out=tmp_path / "ray", backend={"kind": "ray", "workers": 2}), local)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("federation", "training"),
    [
        ({"personal": "norms", "optimizer": "fedadam", "participation": {"number": 2}}, {}),
        ({"aggregate": "scaffold", "participation": {"number": 2}}, {"momentum": 0.0, "rounds": 3}),
        ({"secure_aggregation": True}, {"fine_tune": "none"}),
    ],
)
def test_what_hospitals_keep_between_messages_follows_them_over_workers(
    experiment, own_ray, tmp_path, federation, training
):
    """Norms or control variates, between rounds; weights under a mask, between training and summing."""
    given = experiment | {"threads": 1, "fusion": ["mean"], "testtime": [], "federation": federation}
    given["training"] = given["training"] | training
    local = fm.run(given, out=tmp_path / "local")
    same(fm.run(given, out=tmp_path / "ray", backend={"kind": "ray", "workers": 2}), local)


@pytest.mark.slow
def test_fault_injection_gives_the_same_failures_and_the_same_bits(experiment, own_ray, tmp_path):
    """Two hospitals misbehave in one way a round, a third is slow now and then. Waiting for a worker is no
    delay: who is late is said by each hospital's own clock."""
    ways = [("alpha", "crash"), ("beta", "label-flip"), ("alpha", "hang"), ("beta", "stale")]
    ways += [("alpha", "wrong-shape"), ("beta", "huge-norm")]
    faults = [
        {"kind": kind, "site": site, "rounds": [1 + i // 2], "attempts": 1}
        for i, (site, kind) in enumerate(ways)
    ]
    faults.append({"kind": "slow", "seconds": 9, "site": "gamma", "probability": 0.5})
    rules = {"faults": faults, "on_failure": "retry", "deadline": 500, "max_norm": 50.0}
    given = experiment | {"threads": 1, "fusion": ["mean"], "testtime": [], "federation": rules}
    local = fm.run(given, out=tmp_path / "local")
    far = fm.run(given, out=tmp_path / "ray", backend={"kind": "ray", "workers": 2})
    pd.testing.assert_frame_equal(far.failures, local.failures)
    assert set(local.failures["then"]) == {"asked again", "left out", "counted"}
    assert hashes(far) == hashes(local)


def test_more_workers_than_the_cluster_has_room_for_is_a_sentence(experiment, own_ray, tmp_path):
    backend = fm.BackendConfig(kind="ray", workers=3, cpus=2)
    with refused("4", "CPUs", "2", "workers", "3", kind=fm.FedMergeError):
        fm.run(experiment, out=tmp_path / "run", backend=backend)
