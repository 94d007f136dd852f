"""Which runs a deployment's server has begun: Flower's number of each, and where its results go."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmerge.files import Damaged, make_folder, read_sealed, write_sealed

FOLDER = "runs"


class StartedRun(BaseModel):
    """A run that was handed in. run: Flower's number. folder: of its results. at: when, in UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: int
    folder: Path
    at: str


def note(server: Path, run: int, folder: Path) -> None:
    """Write down that a run was handed in. Raises DiskError."""
    make_folder(server / FOLDER)
    body: dict[str, Any] = {
        "run": run,
        "folder": str(folder),
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    write_sealed(server / FOLDER / f"{run}.json", body)


def runs(server: Path) -> list[StartedRun]:
    """The runs that were handed in, the latest last; what cannot be read is left out."""
    found = []
    for path in (server / FOLDER).glob("*.json"):
        try:
            found.append(StartedRun.model_validate(read_sealed(path)))
        except (Damaged, ValidationError, OSError):
            continue
    return sorted(found, key=lambda begun: (begun.at, begun.run))
