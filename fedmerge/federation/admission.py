"""Which node was let in as which hospital: a file of a deployment's server, which no node can change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedmerge.errors import FedMergeError
from fedmerge.files import write_text
from fedmerge.validation import load_yaml


def read_admitted(path: Any) -> dict[int, str] | None:
    """Names by node id; None for no path. Raises FedMergeError for a file that is not there or damaged."""
    if not path:
        return None
    found: dict[Any, Any] = load_yaml(Path(str(path)))
    if not all(isinstance(node, int) and isinstance(name, str) for node, name in found.items()):
        raise FedMergeError(f"{path} should hold lines such as '123: north': admit the hospitals again.")
    return dict(found)


def write_admitted(path: Path, admitted: Mapping[int, str]) -> None:
    """Keep the names, whole or not at all."""
    write_text(path, yaml.safe_dump(dict(admitted)))
