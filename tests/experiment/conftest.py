"""Made-up results, studies and methods, small experiments as files, and runs that several files look at."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from fedmerge.data import Cohort
from fedmerge.experiment.folder.results import Result
from fedmerge.merging import FUSION
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.models import state_hash
from fedmerge.registry import Needs
from fedmerge.reports.run_report import write_report
from fedmerge.storage.manifest import rewrite
from fedmerge.testtime import TESTTIME
from fedmerge.workflows import run as running
from tests.made_up_images import quarters
from tests.made_up_methods import NEEDS, Calibrated
from tests.made_up_results import (
    make_bins,
    make_coefficients,
    make_cohort,
    make_history,
    make_table,
    result_in,
    result_of_everything,
)
from tests.made_up_studies import METHODS, study_in, study_of_everything
from tests.same_runs import outcome


@pytest.fixture(autouse=True)
def plain_reports(no_pictures: None) -> None:
    """No test here looks at pictures, but those that are marked ``pictures``."""


@pytest.fixture
def needy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Needs]:
    """Fusion methods that are mean merging with a need each, by name, for the time of a test."""
    monkeypatch.setattr(FUSION, "_methods", dict(FUSION._methods))

    def average(parents: Parents, context: Context) -> Merged:
        return FUSION["mean"].call(parents, context)

    for name, needs in NEEDS.items():
        FUSION.method(name, title=name, paper="", needs=needs)(average)
    return NEEDS


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> type[Calibrated]:
    """A test-time method ``divides`` with the option ``source_temperatures``, for the time of a test."""
    monkeypatch.setattr(TESTTIME, "_methods", dict(TESTTIME._methods))
    monkeypatch.setattr(Calibrated, "made", [])
    TESTTIME.method("divides", title="divides", paper="")(Calibrated)
    return Calibrated


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """``study_in`` a temporary folder, by default of four methods."""

    def make(accuracy: Mapping[str, float] = METHODS, **options: Any) -> SimpleNamespace:
        return study_in(tmp_path, accuracy, **options)

    return make


@pytest.fixture
def make_result(tmp_path: Path) -> Callable[..., Result]:
    """``result_in`` a temporary folder."""
    return partial(result_in, tmp_path)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the made-up result, written once."""
    return write_report(result_in(tmp_path_factory.mktemp("report"))).read_text(encoding="utf-8")


@pytest.fixture
def tables() -> Callable[..., pd.DataFrame]:
    """``make_table``."""
    return make_table


@pytest.fixture
def cohorts() -> Callable[..., Cohort]:
    """``make_cohort``."""
    return make_cohort


@pytest.fixture
def histories() -> Callable[..., pd.DataFrame]:
    """``make_history``."""
    return make_history


@pytest.fixture
def traces() -> Callable[..., pd.DataFrame]:
    """``make_coefficients``."""
    return make_coefficients


@pytest.fixture
def bins() -> Callable[..., pd.DataFrame]:
    """``make_bins``."""
    return make_bins


@pytest.fixture(scope="session")
def whole_result() -> Callable[[Path], Result]:
    """A made-up run in a folder, with all that a report can show."""

    return result_of_everything


@pytest.fixture(scope="session")
def whole_study() -> Callable[[Path], SimpleNamespace]:
    """A made-up study in a folder, with all that a report can show, and a reason that is one long word."""

    return study_of_everything


@pytest.fixture
def source_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source of 30 grey images of 8 px, three classes, in MedMNIST's form; its name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(30) % 3).astype(np.uint8)[:, None]
    np.savez(tmp_path / "small.npz", **arrays)
    monkeypatch.setenv("FEDMERGE_DATA", str(tmp_path))
    return "npz:small.npz"


@pytest.fixture
def site_files(tmp_path: Path, experiment: dict[str, Any]) -> Path:
    """The tiny experiment as files: a configuration, a cohort, and an .npz for each of its sites."""
    folder = tmp_path / "images"
    folder.mkdir()
    sites = []
    for site in experiment["cohort"].sites:
        images, labels = site.source.images, site.source.labels
        parts = {"train": slice(0, 36), "val": slice(36, 48), "test": slice(48, 60)}
        arrays = {f"{name}_images": images[part] for name, part in parts.items()}
        arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
        np.savez(folder / f"{site.name}.npz", **arrays)
        sites.append({"name": site.name, "source": f"npz:images/{site.name}.npz", "unseen": site.unseen})
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump({"sites": sites}))
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(experiment | {"cohort": "cohort.yaml", "threads": 1}))
    return file


@pytest.fixture
def hashes() -> Callable[[Path], dict[str, str]]:
    """Of every tensor file of a run, by its path: the pool, fused models, references, streams."""

    def of(folder: Path) -> dict[str, str]:
        files = sorted(folder.rglob("*.safetensors"))
        return {str(file.relative_to(folder)): state_hash(load_file(file)) for file in files}

    return of


@pytest.fixture
def remote_files(site_files: Path, tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    """The experiment as the server has it in a deployment, and a file for each hospital on its own side."""
    cohort = yaml.safe_load((tmp_path / "cohort.yaml").read_text())
    nodes = []
    for site in cohort["sites"]:
        if not site["unseen"]:
            own = tmp_path / f"{site['name']}.yaml"
            own.write_text(yaml.safe_dump({"sites": [dict(site)]}))
            nodes.append({"site": site["name"], "cohort": str(own)})
            site["source"] = "remote"
    (tmp_path / "remote.yaml").write_text(yaml.safe_dump(cohort))
    config = yaml.safe_load(site_files.read_text()) | {"cohort": "remote.yaml"}
    file = tmp_path / "server.yaml"
    file.write_text(yaml.safe_dump(config))
    return file, nodes


@pytest.fixture(scope="session")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three hospitals and an unseen one, each brighter than the last, on disk; run once."""
    folder, values = tmp_path_factory.mktemp("tuned"), (0.01, math.inf)
    sites = ["alpha", "beta", "gamma", "delta"]
    for seed, name in enumerate(sites):
        rng, arrays = np.random.default_rng(seed), {}
        for split, n in (("train", 30), ("val", 12), ("test", 9)):
            images, labels = quarters(rng, n, noise=110, offset=25 * seed, bright=50)
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        np.savez(folder / f"{name}.npz", **arrays)
    cohort = {
        "name": "corners",
        "sites": [
            {"name": name, "source": f"npz:{folder / name}.npz", "unseen": name == "delta"} for name in sites
        ],
    }
    config = {
        "name": "tuned",
        "cohort": cohort,
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "training": {"rounds": 0, "epochs": 20, "lr": 0.1, "batch_size": 10},
        "fusion": ["mean"],
        "testtime": [
            {
                "method": "entropy-adaptive",
                "tune": {"option": "coefficients.temperature", "values": list(values)},
            },
            *(
                {"method": "entropy-adaptive", "label": f"at-{name}", "coefficients": {"temperature": value}}
                for name, value in zip(("0.01", "inf"), values, strict=True)
            ),
            {"method": "tent", "start": "pooled"},
        ],
        "evaluation": {"batch_size": 16, "streams": ["iid", "temporal"]},
    }
    return running.run(config, out=folder / "run")


class Whole(NamedTuple):
    """An unbroken run: its folder, which nobody changes, and what another run must have in common with it."""

    folder: Path
    outcome: dict[str, Any]


@pytest.fixture
def every_kind(experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny experiment with one candidate of every kind, to be run with a report of one line.

    A report takes longer than the run, and is made of the tables alone.
    """

    def brief(result: Result, **_: Any) -> None:
        rewrite(result.folder / "report.html", f"{len(result.table)} rows")

    monkeypatch.setattr(running, "write_report", brief)
    evaluation = experiment["evaluation"] | {"streams": ["iid", "temporal"]}
    return experiment | {"fusion": ["mean", "greedy", "ensemble-logits"], "evaluation": evaluation}


@pytest.fixture(scope="session")
def unbroken() -> list[Whole]:
    """The run of ``whole``, once it is made."""
    return []


@pytest.fixture
def whole(
    every_kind: dict[str, Any], unbroken: list[Whole], tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    """What an unbroken run of ``every_kind`` leaves; made once in a process."""
    if not unbroken:
        folder = tmp_path_factory.mktemp("unbroken") / "whole"
        running.run(every_kind, out=folder)
        unbroken.append(Whole(folder, outcome(folder)))
    return unbroken[0]


@pytest.fixture
def finished(whole: Whole, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(whole.folder, tmp_path / "run"))
