"""The bundle of a run: Flower sends every node the run's app. Ours holds names and settings, never code."""

from __future__ import annotations

import tomllib
import zipfile
from io import BytesIO
from typing import Any

from fedmerge.errors import FedMergeError, short

SERVER, CLIENT = "fedmerge.workflows.flower_app:server", "fedmerge.workflows.flower_app:client"
"""The apps of this package, as a Flower project names them."""
PROJECT, CONTENT = "pyproject.toml", ".info/CONTENT"
LARGEST = 64 * 1024
"""The most bytes of a bundle, and of each file in it."""


def check_bundle(content: bytes) -> None:
    """Raise FedMergeError for a bundle that holds more than the names of this package's own apps.

    No content of a bundle is ever run (``clientapp``); the error tells a server that sends code.
    """
    if len(content) > LARGEST:
        raise _refused(f"it has {len(content):,} bytes, more than {LARGEST:,}")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            for entry in archive.infolist():
                if entry.filename not in (PROJECT, CONTENT):
                    raise _refused(f"it holds the file '{short(ascii(entry.filename)[1:-1])}'")
                if entry.file_size > LARGEST:
                    raise _refused(
                        f"its {entry.filename} has {entry.file_size:,} bytes, more than {LARGEST:,}"
                    )
            with archive.open(PROJECT) as file:
                project = tomllib.loads(file.read(LARGEST).decode())
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, OSError, NotImplementedError) as error:
        raise _refused(f"it cannot be read ({type(error).__name__})") from None
    components = _within(project, "tool", "flwr", "app").get("components")
    if components != {"serverapp": SERVER, "clientapp": CLIENT}:
        raise _refused(f"its apps are not this package's own ({short(ascii(components))})")


def _within(project: dict[str, Any], *names: str) -> dict[str, Any]:
    found: Any = project
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _refused(why: str) -> FedMergeError:
    return FedMergeError(
        f"the app that came with the run is refused, because {why}: a hospital runs the FedMerge that it "
        "installed, and no code that a server sends."
    )
