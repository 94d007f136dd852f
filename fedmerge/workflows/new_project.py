"""Write a project that runs as it is: an experiment, its hospitals, an own method and an own metric."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import LONGEST_NAME, is_there
from fedmerge.storage.files import make_folder, write_text
from fedmerge.workflows.own_hospitals import Hospitals, cohort_text
from fedmerge.workflows.reference.schemas import schema

TEMPLATE = Path(__file__).parent / "project"
COHORT = "sites/hospitals.yaml"
FILES = (
    "README.md", "experiment.yaml", COHORT, "plugins/fusion.py", "plugins/metric.py",
    ".gitignore",
)  # fmt: skip
SCHEMAS = {"experiment.yaml": "experiment", "sites/hospitals.yaml": "cohort"}
"""The files that name a schema for editors, and which."""


def new_project(folder: Path, own: Hospitals | None = None) -> list[Path]:
    """Write a project into ``folder``, which must be new or empty; return the files.

    The experiment is named after the folder. Its hospitals are ``own``, or share digits. Raises FedMergeError
    for a folder that holds anything and for places that are none, and DiskError where it cannot be written.
    """
    if is_there(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FedMergeError(f"'{short(folder)}' is already there and not empty: name a new folder.")
    cohort = cohort_text(folder, own) if own is not None else None
    name, made = _name(folder), []
    for file in FILES:
        text = (TEMPLATE / file.removeprefix(".")).read_text(encoding="utf-8").replace("PROJECT", name)
        if file == COHORT and cohort is not None:
            text = cohort
        if file in SCHEMAS:
            above = "../" * file.count("/")
            text = f"# yaml-language-server: $schema={above}.schemas/{SCHEMAS[file]}.json\n{text}"
        made.append(_write(folder / file, text))
    for kind in SCHEMAS.values():
        made.append(_write(folder / ".schemas" / f"{kind}.json", json.dumps(schema(kind), indent=1) + "\n"))
    return made


def _write(path: Path, text: str) -> Path:
    make_folder(path.parent)
    write_text(path, text)
    return path


def _name(folder: Path) -> str:
    """Return a name for the experiment: the folder's, in the letters that names may have."""
    letters = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return letters[:LONGEST_NAME] or "experiment"
