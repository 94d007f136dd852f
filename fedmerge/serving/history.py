"""What a service answered, in SQLite: coefficients, entropies and counts of each batch; no image, no file
name."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, short

COLUMNS = (
    "at", "client", "stream", "batch", "images", "models", "encoder", "head", "source_entropies", "entropy",
    "confidence", "predicted", "fallback", "drift", "seconds",
)  # fmt: skip
PACKED = ("encoder", "head", "source_entropies", "predicted", "fallback", "drift")
"""Columns that hold JSON."""
TABLE = f"CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(COLUMNS)})"
Row = dict[str, Any]


class History:
    """Batches in a SQLite file, or in memory; the latest ``most``. Safe to use from several threads."""

    def __init__(self, path: Path | None, most: int) -> None:
        """Raises FedMergeError for a file that cannot be written or is no history."""
        self.path, self.most, self._lock = path, most, threading.Lock()
        self.fault = ""
        try:
            self._open = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
            self._open.execute("PRAGMA journal_mode=WAL")
            self._open.execute("PRAGMA synchronous=NORMAL")
            self._open.execute(TABLE)
            self._open.execute("CREATE INDEX IF NOT EXISTS who ON batches (client, stream, id)")
            self._open.execute(f"SELECT {', '.join(COLUMNS)} FROM batches LIMIT 1")
        except sqlite3.Error as error:
            raise FedMergeError(
                f"the history '{short(path)}' cannot be used ({error}): choose another file, in a folder "
                "that can be written."
            ) from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a batch; where the disk does not take it, say so in ``fault`` and go on."""
        values = [json.dumps(row[name]) if name in PACKED else row[name] for name in COLUMNS]
        marks = ", ".join("?" for _ in COLUMNS)
        try:
            with self._lock:
                made = self._open.execute(
                    f"INSERT INTO batches ({', '.join(COLUMNS)}) VALUES ({marks})", values
                )
                self._open.execute(
                    "DELETE FROM batches WHERE id <= ?", (int(made.lastrowid or 0) - self.most,)
                )
            self.fault = ""
        except sqlite3.Error as error:
            self.fault = str(error)

    def rows(self, client: str, stream: str | None = None, limit: int = 1000, after: int = 0) -> list[Row]:
        """Return a client's batches, the latest ``limit`` of those behind the id ``after``, oldest first."""
        where, given = "client = ? AND id > ?", [client, after]
        if stream is not None:
            where, given = f"{where} AND stream = ?", [*given, stream]
        query = f"SELECT id, {', '.join(COLUMNS)} FROM batches WHERE {where} ORDER BY id DESC LIMIT ?"
        with self._lock:
            found = self._open.execute(query, [*given, limit]).fetchall()
        return [_row(each) for each in reversed(found)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._open.close()


def _row(values: Sequence[Any]) -> Row:
    row = dict(zip(("id", *COLUMNS), values, strict=True))
    return row | {name: json.loads(row[name]) for name in PACKED}


def as_csv(rows: Iterable[Row]) -> str:
    """Return rows as CSV; what was JSON stays JSON in one cell."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("id", *COLUMNS))
    for row in rows:
        writer.writerow(json.dumps(row[name]) if name in PACKED else row[name] for name in ("id", *COLUMNS))
    return text.getvalue()
