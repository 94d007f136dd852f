"""The runs of a deployment's server: Flower's number of each, and the folder of its results."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmerge.storage.files import Damaged, make_folder, read_sealed, write_sealed

FOLDER = "runs"


class StartedRun(BaseModel):
    """A submitted run. run: Flower's number. folder: of its results. at: the time in UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: int
    folder: Path
    at: str


def note(server: Path, run: int, folder: Path) -> None:
    """Record a submitted run. Raises DiskError."""
    make_folder(server / FOLDER)
    body: dict[str, Any] = {
        "run": run,
        "folder": str(folder),
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    write_sealed(server / FOLDER / f"{run}.json", body)


def runs(server: Path) -> list[StartedRun]:
    """Return the submitted runs, the latest last; unreadable records are left out."""
    found = []
    for path in (server / FOLDER).glob("*.json"):
        try:
            found.append(StartedRun.model_validate(read_sealed(path)))
        except (Damaged, ValidationError, OSError):
            continue
    return sorted(found, key=lambda begun: (begun.at, begun.run))
