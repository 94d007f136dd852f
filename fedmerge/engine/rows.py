"""A buffer of rows, by list: what a task or a run has measured so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Rows = dict[str, list[Row]]


class RowBuffer:
    """Lists of rows by name; each is an attribute, too."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.rows: Rows = {name: [] for name in names}

    def position(self) -> dict[str, int]:
        """Return the number of rows, by list."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def since(self, position: Mapping[str, int]) -> Rows:
        """Return the rows added after a position, by list."""
        return {name: self.rows[name][start:] for name, start in position.items()}

    def truncate(self, position: Mapping[str, int]) -> None:
        """Drop the rows added after a position."""
        for name, start in position.items():
            del self.rows[name][start:]

    def extend(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Add rows that ``since`` returned."""
        for name, added in rows.items():
            self.rows[name].extend(added)
