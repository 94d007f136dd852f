from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

WriteStudy = Callable[[Path, str, dict[str, Any], list[dict[str, Any]]], Path]


@pytest.fixture(scope="session")
def write_study() -> WriteStudy:
    """Writes a finished study's folder, as ``fedmerge bench`` leaves it: configuration, plan and rows."""

    def write(folder: Path, name: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        usual = {"name": name, "base": {"seeds": [0, 1, 2]}, "compare": "method", "reference": "mean"}
        (folder / "study.yaml").write_text(yaml.safe_dump(usual | config, sort_keys=False))
        jobs = sorted({row["job"] for row in rows})
        (folder / "plan.json").write_text(json.dumps({"hash": "0", "jobs": jobs}))
        pd.DataFrame(rows).to_parquet(folder / "results.parquet")
        pd.DataFrame({"n": []}).to_parquet(folder / "reliability.parquet")
        return folder

    return write
