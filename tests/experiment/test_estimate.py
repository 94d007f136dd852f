"""A dry run: what it counts follows from the configuration, and nothing is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from facts import refused
from typer.testing import CliRunner

from fedmerge.cli import app
from fedmerge.workflows.estimate import REPORT_BYTES, estimate

EXPERIMENT = {
    "name": "counted",
    "cohort": {
        "name": "two", "source": "digits", "size": 8,
        "sites": [
            {"name": "north", "limit": 100}, {"name": "south", "limit": 90}, {"name": "hill", "unseen": True},
        ],
    },
    "model": {"name": "small-cnn", "options": {"width": 4}},
    "training": {"rounds": 3, "epochs": 2, "batch_size": 32, "fine_tune": {"epochs": 5}},
    "fusion": ["mean", "ensemble-logits"],
    "testtime": ["entropy-adaptive"],
    "evaluation": {"streams": ["iid", "temporal"]},
    "threads": 1,
}  # fmt: skip


def steps(part) -> int:
    return int(re.search(r"([\d,]+)(?: training)? steps", part.what)[1].replace(",", ""))


def test_steps_models_and_parts_are_those_of_the_run():
    """100 images in batches of 32 are 4 steps, 90 are 3: 7 a pass, 3 * 2 + 5 passes, pooled the same."""
    found = estimate(EXPERIMENT)
    trained, pooled, fusion, models, node = found.parts
    assert steps(trained) == steps(pooled) == 7 * 11
    assert fusion.seconds is None
    assert re.search(r"^5 models on .* hill, 1 view", models.what)  # two alone, pooled, two fused
    assert node.seconds > 0
    assert found.seconds == pytest.approx(sum(part.seconds for part in found.parts if part.seconds))
    weights = (found.disk - REPORT_BYTES) / (2 + 2 + 1 + 2)  # pool, last rounds, pooled, fused
    assert weights == int(weights) > 0


def test_seeds_multiply_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text(json.dumps(EXPERIMENT | {"seeds": [0, 1, 2]}))
    done = CliRunner().invoke(app, ["run", "e.yaml", "--dry-run", "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["seeds"] == [0, 1, 2]
    one = told["measured"]["seconds a training step"]
    assert told["parts"][1]["seconds"] == pytest.approx(3 * 77 * one)
    assert [path.name for path in tmp_path.iterdir()] == ["e.yaml"]


def test_what_a_run_refuses_a_dry_run_refuses():
    with refused("batch_size", "south"):
        estimate(EXPERIMENT | {"training": {"rounds": 1, "batch_size": 95}})


def test_memory_is_that_of_a_run_within_a_sixth(tmp_path):
    """Each side in a process of its own, because a process's peak holds all that it did before."""
    (tmp_path / "e.yaml").write_text(json.dumps(EXPERIMENT))
    code = """
import resource, sys
from fedmerge.cli import app
app(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""

    def done(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "run", "e.yaml", "--json", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    estimated = json.loads(done("--dry-run").stdout)["memory"]
    peak = int(done("--out", "run").stderr.split()[-1])
    assert 6 / 7 < estimated / peak < 7 / 6
