"""The folder that the environment variable FEDMERGE_DATA names: images, and weights to begin from."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FEDMERGE_DATA"


def named_folder() -> Path | None:
    """Return the folder that FEDMERGE_DATA names; None where it is not set or empty."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None
