"""A small cohort and a made-up result of a run on it: frames by hand, no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from fedmerge.data import Appearance, Cohort, Site, Split
from fedmerge.experiment.configuration.config import Experiment
from fedmerge.experiment.folder.results import Result

KINDS = {"pooled": "pooled", "mean": "fusion", "greedy": "fusion", "entropy-adaptive": "test-time"}
ACCURACY = {
    "alone:north": 0.60,
    "alone:south": 0.70,
    "pooled": 0.90,
    "mean": 0.75,
    "greedy": 0.78,
    "entropy-adaptive": 0.81,
}


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


def result_of_everything(folder: Path) -> Result:
    """A made-up run in a folder, with all that a report can show."""
    return result_in(folder, seeds=(0, 1), reliability=make_bins(KINDS, ("iid", "temporal")))
