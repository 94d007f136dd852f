"""A made-up study, with accuracies as they are given; no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from tests.made_up_results import KINDS, make_bins


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


def study_of_everything(folder: Path) -> SimpleNamespace:
    """A made-up study in a folder, with all that a report can show, and a reason that is one long word."""
    accuracy = METHODS | {"a-method-with-a-name-as-long-as-they-get-in-sweeps": 0.7}
    methods = {name: KINDS.get(name, "fusion") for name in accuracy}
    study = study_in(
        folder, accuracy, methods=methods, cohorts=("digits", "blood"), severities=(0, 1, 2), noise=0.02
    )
    failed = study.table.iloc[:2].assign(status="failed", reason="x" * 200, stream="", accuracy=float("nan"))
    study.table = pd.concat([study.table, failed], ignore_index=True)
    return study
