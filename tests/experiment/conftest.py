"""A small cohort, a made-up result and a made-up study: hand-made frames, no training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from fedmerge.data import Appearance, Cohort, Site, Split
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.folder.results import Result
from fedmerge.merging import FUSION
from fedmerge.merging.methods import Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.models import state_hash
from fedmerge.registry import Needs
from fedmerge.reports import page as report_page
from fedmerge.reports.run_report import write_report
from fedmerge.testtime import TESTTIME
from tests.made_up_images import quarters

KINDS = {"pooled": "pooled", "mean": "fusion", "greedy": "fusion", "entropy-adaptive": "test-time"}
ACCURACY = {
    "alone:north": 0.60,
    "alone:south": 0.70,
    "pooled": 0.90,
    "mean": 0.75,
    "greedy": 0.78,
    "entropy-adaptive": 0.81,
}


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without their pictures, which take seconds; marked ``pictures``, with them."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(report_page, "image_of", lambda *what, **options: "data:image/svg+xml;base64,")


def make_cohort(
    training: Sequence[str] = ("north", "south"),
    unseen: Sequence[str] = ("coast",),
    channels: int = 1,
    class_names: Sequence[str] = ("no", "yes"),
) -> Cohort:
    """Sites with 12 + 4 + 4 images of 8 x 8 pixels and classes in turn."""
    rng = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        images = torch.randint(0, 256, (n, channels, 8, 8), generator=rng, dtype=torch.uint8)
        return Split(images, torch.arange(n) % len(class_names))

    sites = tuple(
        Site(
            name,
            "digits",
            split(12),
            split(4),
            split(4),
            tuple(class_names),
            name in unseen,
            (Appearance(kind="blur", severity=2),),
        )
        for name in (*training, *unseen)
    )
    return Cohort("tiny", "Tiny cohort", sites)


def make_table(
    accuracy: Mapping[str, float] = ACCURACY,
    streams: Sequence[str] = ("iid", "temporal"),
    seeds: Sequence[int] = (0,),
    sites: Sequence[str] = ("coast",),
) -> pd.DataFrame:
    """One row per method, site, stream and seed; accuracy as given, the same everywhere."""
    return pd.DataFrame(
        [
            {
                "experiment": "tiny", "cohort": "tiny", "model": "small-cnn", "seed": seed, "site": site,
                "stream": stream, "method": method, "kind": KINDS.get(method, "alone"), "n": 20,
                "accuracy": value, "balanced_accuracy": value - 0.05, "auroc": value + 0.08,
                "auroc_classes": 2, "ece": 0.3 - value / 4, "forward_passes": 1.0, "seconds": 0.1,
                "config_hash": "abc",
            }
            for seed in seeds for site in sites for stream in streams for method, value in accuracy.items()
        ]
    )  # fmt: skip


def make_history(sites: Sequence[str] = ("north", "south"), rounds: int = 3, seeds: int = 1) -> pd.DataFrame:
    """Falling loss, rising accuracy, and one fine-tuning after the rounds."""
    steps = [(number, phase) for number in range(1, rounds + 1) for phase in ("train", "validate")]
    rows = [
        {
            "seed": seed, "federation": "all", "round": number, "phase": phase, "site": site,
            "num-examples": 12, "loss": 1 / number + 0.1 * seed, "accuracy": 1 - 1 / (number + 1),
        }
        for seed in range(seeds) for site in sites for number, phase in [*steps, (rounds + 1, "fine-tune")]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_coefficients(
    sources: Sequence[str] = ("north", "south"),
    streams: Sequence[str] = ("iid", "temporal"),
    batches: int = 3,
) -> pd.DataFrame:
    """Coefficients 1 : 2 : ... of the encoder, equal ones of the head, in every batch."""
    total = len(sources) * (len(sources) + 1) / 2
    return pd.DataFrame(
        [
            {
                "seed": 0, "site": "coast", "method": "entropy-adaptive", "stream": stream, "batch": batch,
                "source": source, "encoder": (i + 1) / total, "head": 1 / len(sources),
            }
            for stream in streams for batch in range(batches) for i, source in enumerate(sources)
        ],
        columns=["seed", "site", "method", "stream", "batch", "source", "encoder", "head"],
    )  # fmt: skip


def make_experiment(seeds: Sequence[int] = (0,), title: str = "Tiny run") -> Experiment:
    """The experiment the made-up result would come from."""
    return Experiment.model_validate(
        {
            "name": "tiny", "title": title, "cohort": "digits-scanners", "model": "small-cnn",
            "seeds": list(seeds), "training": {"rounds": 3}, "fusion": ["mean", "greedy"],
            "testtime": ["entropy-adaptive"], "evaluation": {"streams": ["iid", "temporal"]},
        }
    )  # fmt: skip


def result_in(folder: Path, seeds: Sequence[int] = (0,), **fields: object) -> Result:
    """A made-up Result whose report goes into ``folder``; fields may be replaced by keyword."""
    trials = [("south", 0.71, 0.71, True), ("north", 0.62, 0.69, False)]
    decisions = pd.DataFrame(trials, columns=["model", "score_alone", "score_with", "accepted"])
    given: dict[str, object] = {
        "experiment": make_experiment(seeds),
        "cohort": make_cohort(),
        "table": make_table(seeds=seeds),
        "history": make_history(),
        "coefficients": make_coefficients(),
        "decisions": decisions.assign(seed=0, site="coast", method="greedy"),
        "failures": pd.DataFrame(columns=["seed", "where", "site", "reason"]),
        "provenance": {
            "versions": {"torch": "2.15"}, "threads": 1, "command": "fedmerge run tiny.yaml",
            "auroc": "macro mean of one-vs-rest AUROC",
        },
        "folder": folder,
    }  # fmt: skip
    return Result(**(given | fields))  # type: ignore[arg-type]


def make_bins(methods: Mapping[str, str], streams: Sequence[str] = ("iid",)) -> pd.DataFrame:
    """Calibration of methods by kind: two bins of 10 images, in the middle of each; the rest is empty."""
    return pd.DataFrame(
        [
            {
                "seed": 0, "site": "coast", "method": method, "kind": kind, "stream": stream, "bin": i,
                "low": i / 4, "high": (i + 1) / 4, "n": 10 * (i > 1),
                "confidence": (i + 0.5) / 4 if i > 1 else float("nan"),
                "accuracy": 0.7 if i > 1 else float("nan"),
            }
            for method, kind in methods.items() for stream in streams for i in range(4)
        ]
    )  # fmt: skip


def study_in(
    folder: Path,
    accuracy: Mapping[str, float],
    *,
    compare: str = "method",
    reference: str | None = "mean",
    axes: Mapping[str, Sequence[str]] | None = None,
    cohorts: Sequence[str] = ("digits",),
    seeds: int = 2,
    sites: Sequence[str] = ("coast", "hill"),
    severities: Sequence[int] = (0,),
    methods: Mapping[str, str] = KINDS,
    noise: float = 0.0,
    **config: Any,
) -> SimpleNamespace:
    """A made-up study: ``accuracy`` by level of what is compared, 0.1 less by severity, the rest equal.

    ``noise`` moves the accuracy up and down by seed and site, so that intervals have a width; every level
    but the first is moved the other way.
    """
    axes = dict(axes or {})
    rows: list[dict[str, Any]] = []
    names = [*axes, "cohort", "seed", "site", "method", "severity"]
    grid = product(*axes.values(), cohorts, range(seeds), sites, methods, severities)
    for number, values in enumerate(grid):
        row = dict(zip(names, values, strict=True))
        level = row[compare]
        sign = 1 if level == next(iter(accuracy)) else -1
        moved = noise * sign * (1 if (row["seed"] + list(sites).index(row["site"])) % 2 else -1)
        score = accuracy[level] + moved - 0.1 * row["severity"]
        rows.append(
            row
            | {
                "study": "made-up", "job": f"job{number // len(severities)}", "status": "done", "reason": "",
                "model": "small-cnn", "stream": "iid", "shift": "blur" if row["severity"] else "none",
                "kind": methods[row["method"]], "n": 20, "accuracy": score, "balanced_accuracy": score,
                "auroc": score, "auroc_classes": 2, "ece": 1 - score, "brier": 1 - score,
                "validation": score, "forward_passes": 5.0 if row["method"] == "entropy-adaptive" else 1.0,
                "backward_passes": 0.0, "seconds": 0.1, "training_seconds": 9.0, "device": "cpu (CPU)",
                "versions": "{}", "config_hash": f"job{number}",
            }
        )  # fmt: skip
    given = {"name": "made-up", "title": "Made-up study", "question": "", "metric": "accuracy", "sweep": ()}
    bins = make_bins(methods).assign(cohort=cohorts[0], **{name: levels[0] for name, levels in axes.items()})
    return SimpleNamespace(
        config=SimpleNamespace(
            **(given | {"axes": axes, "compare": compare, "reference": reference} | config)
        ),
        table=pd.DataFrame(rows),
        reliability=bins,
        provenance={"versions": [{"torch": "2.15"}], "plan": "abc", "command": "fedmerge bench study.yaml"},
        folder=folder,
    )


METHODS = {"mean": 0.75, "greedy": 0.78, "entropy-adaptive": 0.81, "pooled": 0.9}


NEEDS = {
    "needs-images": Needs(fusion_images=True),
    "needs-sums": Needs(fusion_sums=True),
    "needs-labels": Needs(fusion_images=True, fusion_labels=True),
    "needs-start": Needs(shared_start=True),
}


@pytest.fixture
def needy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Needs]:
    """Fusion methods that are mean merging with a need each, by name, for the time of a test."""
    monkeypatch.setattr(FUSION, "_methods", dict(FUSION._methods))

    def average(parents: Parents, context: Context) -> Merged:
        return FUSION["mean"].call(parents, context)

    for name, needs in NEEDS.items():
        FUSION.method(name, title=name, paper="", needs=needs)(average)
    return NEEDS


class Calibrated(nn.Module):
    """Mean of the sources' logits, each divided by its temperature; ``made`` keeps all temperatures."""

    made: ClassVar[list[Sequence[float] | None]] = []

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        temperature: float = 1.0,
        source_temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.temperatures = source_temperatures or [1.0] * len(models)
        self.made.append(source_temperatures)
        self.reset()

    def reset(self) -> None:
        self.forward_passes = self.backward_passes = 0

    def observe(self, batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits = [m(batch) / t for m, t in zip(self.models, self.temperatures, strict=True)]
        return torch.stack(logits).mean(0), None


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

    def make(folder: Path) -> Result:
        bins = make_bins(KINDS, ("iid", "temporal"))
        return result_in(folder, seeds=(0, 1), reliability=bins)

    return make


@pytest.fixture(scope="session")
def whole_study() -> Callable[[Path], SimpleNamespace]:
    """A made-up study in a folder, with all that a report can show, and a reason that is one long word."""

    def make(folder: Path) -> SimpleNamespace:
        accuracy = METHODS | {"a-method-with-a-name-as-long-as-they-get-in-sweeps": 0.7}
        methods = {name: KINDS.get(name, "fusion") for name in accuracy}
        study = study_in(
            folder, accuracy, methods=methods, cohorts=("digits", "blood"), severities=(0, 1, 2), noise=0.02
        )
        failed = study.table.iloc[:2].assign(
            status="failed", reason="x" * 200, stream="", accuracy=float("nan")
        )
        study.table = pd.concat([study.table, failed], ignore_index=True)
        return study

    return make


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
    from fedmerge import run

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
    return run(config, out=folder / "run")
