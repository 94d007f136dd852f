"""A run's table on a terminal of 80 letters: whole words, all numbers, as few tables as fit."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from fedmerge.cli.tables import summary_tables
from fedmerge.experiment.folder.results import summarise

STREAMS = [
    "iid",
    "dirichlet-0.5",
    "dirichlet-0.05",
    "temporal",
    "note-0.05",
    "recurring-3",
    "drift-bias-field",
]
METHODS = {"ensemble-features": "fusion", "stream-adaptive-tuned": "test-time", "majority-class": "reference"}


def result(streams: list[str], seeds: int):
    rows = [
        {
            "seed": seed, "site": "hillcrest", "stream": stream, "method": method, "kind": kind, "n": 100,
            "accuracy": 0.5 + seed / 50, "balanced_accuracy": 0.5, "auroc": 0.5, "ece": 0.1, "brier": 0.2,
            "forward_passes": 5.0, "constant": kind == "reference", "classes_present": 10,
            "largest_class": 0.1,
            "chance_error": 0.02, "severity": 0,
        }
        for seed in range(seeds) for stream in streams for method, kind in METHODS.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows).astype({"constant": "boolean"})
    experiment = SimpleNamespace(title="", name="many", plugins=())
    return SimpleNamespace(
        table=table,
        experiment=experiment,
        metric="accuracy",
        headline="accuracy",
        summary=lambda: summarise(table, by="accuracy"),
    )


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize(("streams", "seeds"), [(4, 1), (7, 3)])
def test_no_word_is_broken_and_no_number_is_lost(width, streams, seeds):
    made = result(STREAMS[:streams], seeds)
    stream = io.StringIO()
    tables = summary_tables(made, width)
    for table in tables:
        Console(file=stream, width=width).print(table)
    said = stream.getvalue()
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    words = set(re.split(r"[\s│─]+", said))
    headings = {word for name in STREAMS[:streams] for word in name.split("-")} | {"AUROC", "ECE", "passes"}
    assert headings | set(METHODS) <= words
    assert len(tables) == 1 or width < 200
    assert said.count("majority-class") == len(tables)
