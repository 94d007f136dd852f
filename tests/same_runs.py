"""What two runs must have in common, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from fedmerge import ModelPool
from fedmerge.experiment.folder.results import WALL_CLOCK, open_result

TABLES = ("results", "reliability", "coefficients", "decisions", "failures", "history")


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same: every table without what a clock fills, and every model's hash."""
    result = open_result(folder)
    frames = {
        "results": result.table,
        "reliability": result.reliability,
        **{name: getattr(result, name) for name in TABLES[2:]},
    }
    tables = {
        name: frame.drop(columns=WALL_CLOCK.get(name, []), errors="ignore") for name, frame in frames.items()
    }
    hashes = {}
    for card in folder.rglob("*.json"):
        if card.with_suffix(".safetensors").is_file():
            ModelPool(card.parent).verify()
            hashes[str(card.relative_to(folder))] = json.loads(card.read_text())["sha256"]
    streams = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("streams.safetensors")}
    return {"tables": tables, "hashes": hashes, "streams": streams}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["hashes"] == expected["hashes"]
    assert found["streams"] == expected["streams"]
    for name in TABLES:
        pd.testing.assert_frame_equal(found["tables"][name], expected["tables"][name], obj=name)
