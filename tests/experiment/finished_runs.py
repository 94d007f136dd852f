"""What lies in the folder of a finished run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

POOL = "seed-0/federation/pool"


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def better(folder: Path) -> None:
    """Every accuracy becomes 0.999."""
    table = pd.read_parquet(folder / "results.parquet")
    table.assign(accuracy=0.999).to_parquet(folder / "results.parquet", index=False)
