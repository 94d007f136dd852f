"""A tracker: a file of JSON lines beside the run's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedmerge as fm


@fm.TRACKERS.method("lines", title="JSON lines")
class Lines:
    """Write each row as a line of JSON.

    file: where to; by default ``RUN.jsonl`` beside the run's folder.
    """

    def __init__(self, *, file: str | None = None) -> None:
        self.path = None if file is None else Path(file)

    def start(self, config: Mapping[str, Any], folder: Path) -> None:
        """Begin the file with the run's name."""
        self.path = self.path or folder.with_name(f"{folder.name}.jsonl")
        self._write("start", {"experiment": config["name"]})

    def log(self, kind: str, row: Mapping[str, Any], step: int) -> None:
        """Append a row."""
        self._write(kind, {"step": step, **row})

    def finish(self, finished: bool) -> None:
        """Append how the run ended."""
        self._write("finish", {"finished": finished})

    def _write(self, table: str, row: Mapping[str, Any]) -> None:
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, **row}, default=str) + "\n")
