"""Which node was let in as which hospital: a file of a deployment's server, which no node can change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from fedmerge.files import write_text
from fedmerge.validation import load_yaml, validate


class Admitted(BaseModel):
    """A hospital that was let in. key: its public key, in OpenSSH's words (``ecdsa-sha2-nistp384 AAAA…``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str


class Admissions(BaseModel):
    """The file: hospitals by node id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: dict[int, Admitted] = {}


def read_admitted(path: Any) -> dict[int, Admitted] | None:
    """Hospitals by node id; None for no path. Raises FedMergeError for a missing or damaged file."""
    if not path:
        return None
    return dict(validate(Admissions, load_yaml(Path(str(path))), str(path)).nodes)


def write_admitted(path: Path, admitted: Mapping[int, Admitted]) -> None:
    """Keep the hospitals, whole or not at all."""
    write_text(path, yaml.safe_dump(Admissions(nodes=dict(admitted)).model_dump(), sort_keys=False))
