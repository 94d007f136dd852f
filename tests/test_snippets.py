"""Python and YAML of the documentation: every block of Python is executed, every block of YAML is accepted.

The tutorial, the examples of docs/extending and those of docs/options.md have tests of their own.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import fedmerge as fm
from fedmerge.data import CohortSpec
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.models import ModelSpec, build
from fedmerge.reports import page as report_page
from fedmerge.schema.faults import faults_of
from fedmerge.workflows.bench.config import BenchConfig
from fedmerge.workflows.reference.fields import ROOTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("docs/tutorial.md", "docs/extending/", "docs/options.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = ["training.rounds=1", "training.epochs=1", "training.fine_tune=none", "evaluation.streams=[iid]"]
SMALL += ["model.options.width=4", "testtime=[]", "fusion=[mean]", "diagnose='off'"]
EXPERIMENT = {"name": "x", "cohort": "digits-scanners", "model": "small-cnn", "training": {"rounds": 1}}
EXPERIMENT |= {"fusion": ["mean"], "evaluation": {"streams": ["iid"]}}
COHORT = {"name": "x", "source": "digits", "sites": [{"name": "north"}]}
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "experiment": (Experiment, EXPERIMENT),
    "study": (BenchConfig, {"name": "x", "base": EXPERIMENT}),
    "cohort": (CohortSpec, COHORT),
    "node": (ROOTS["node.yaml"], {"site": "north", "cohort": "north.yaml", "server": "gate:9092"}),
    "policy": (ROOTS["policy.yaml"], {}),
}
"""What a block of YAML may be a part of, and what it leaves out."""


def blocks(language: str) -> list[Any]:
    found = []
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(ELSEWHERE):
            texts = [text for kind, text in BLOCK.findall(path.read_text()) if kind == language]
            found += [pytest.param(text, id=f"{name}-{n}") for n, text in enumerate(texts, 1)]
    return found


@pytest.fixture
def there(tmp_path, monkeypatch) -> dict[str, Any]:
    """What the blocks take for granted: networks of one start, images, labels; runs are made small."""
    monkeypatch.setattr(report_page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec(name="small-cnn", options={"width": 4}, in_channels=1, n_classes=3, image_size=8)
    start = build(spec, seed=0).eval()
    models = [copy.deepcopy(start) for _ in range(3)]
    generator = torch.Generator().manual_seed(0)
    for model in models:
        for weight in model.parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    x = torch.randn(48, 1, 8, 8, generator=generator)
    y = torch.arange(48) % 3
    real = fm.run

    def run(config: str) -> fm.Result:
        return real(ROOT / config, changes=SMALL)

    def bench(config: str, **more: int) -> None:
        read = yaml.safe_load((ROOT / config).read_text())
        _, faults = faults_of(BenchConfig, read)
        assert not faults

    monkeypatch.setattr(fm, "run", run, raising=False)
    monkeypatch.setattr(fm, "bench", bench, raising=False)
    net_0, net_a, net_b = copy.deepcopy(start), *models[:2]
    deep = nn.Sequential(*models, copy.deepcopy(start))  # twelve convolutions
    return {
        "fm": fm, "models": models, "pool": models[:2], "pretrained": start.state_dict(), "x": x, "y": y,
        "images": x, "labels": y, "batch": x[:16], "stream": x.split(16), "model": deep,
        "net_0": net_0.state_dict(), "net_a": net_a, "net_b": net_b,
        "optimizer": torch.optim.SGD(deep.parameters(), lr=0.1), "result": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", blocks("python"))
def test_python_runs(text, there):
    if "result.history" in text:
        there["result"] = fm.run("configs/quickstart.yaml")
    exec(compile(text, "docs", "exec"), there)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_accepted_as_a_part_of_a_file(text):
    data = yaml.safe_load(text) or {}  # of a comment alone
    wrong = {}
    for kind, (model, rest) in KINDS.items():
        _, faults = faults_of(model, rest | data)
        wrong[kind] = [sentence for fault in faults for sentence in fault.sentences]
        if not wrong[kind]:
            return
    raise AssertionError(f"{text}\n{wrong}")
