"""A folder of a deployment: readable only by its owner, with its settings in a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import is_there, load_yaml, validate
from fedmerge.storage.files import saying, write_text


class Described(BaseModel):
    """Settings in a YAML file of their folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def save(self, path: Path) -> None:
        """Write the file."""
        text = yaml.safe_dump(self.model_dump(exclude_none=True, exclude_unset=True), sort_keys=False)
        write_text(path, text)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the settings in a file. Raises FedMergeError for invalid ones."""
        return validate(cls, load_yaml(path), str(path))


def new_folder(path: Path) -> None:
    """Make a folder that only its owner can read. Raises FedMergeError if it exists and is not empty."""
    if is_there(path) and (not path.is_dir() or any(path.iterdir())):
        raise FedMergeError(f"'{path}' is already there and not empty: choose a new folder.")
    with saying(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def settings_file(path: Path, kind: str) -> Path:
    """Return the path of a folder's settings. Raises FedMergeError if it does not exist."""
    if not is_there(path):
        raise FedMergeError(
            f"'{short(path.parent)}' is no {kind}'s folder: make one with `fedmerge deployment {kind}`."
        )
    return path
