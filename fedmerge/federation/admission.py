"""The admission file of a deployment's server: the hospital of each admitted node. No node can change it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from fedmerge.schema.validation import load_yaml, validate
from fedmerge.storage.files import write_text


class Admitted(BaseModel):
    """An admitted hospital. key: its public key in OpenSSH's format (``ecdsa-sha2-nistp384 AAAA…``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str


class Admissions(BaseModel):
    """The admission file: hospitals by node id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: dict[int, Admitted] = {}


def read_admitted(path: Any) -> dict[int, Admitted] | None:
    """Read hospitals by node id; None without a path. Raises FedMergeError for a missing or damaged file."""
    if not path:
        return None
    return dict(validate(Admissions, load_yaml(Path(str(path))), str(path)).nodes)


def write_admitted(path: Path, admitted: Mapping[int, Admitted]) -> None:
    """Write the admission file, whole or not at all."""
    write_text(path, yaml.safe_dump(Admissions(nodes=dict(admitted)).model_dump(), sort_keys=False))
