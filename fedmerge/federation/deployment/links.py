"""What a SuperLink's database says of nodes, messages and runs: read only, and also when it is down."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PATIENCE = 2  # heartbeats that a SuperLink waits for before a node counts as offline (Flower's constant)
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Link:
    """A node as the SuperLink knows it. heard: when it last gave a sign of life. since: when it came last."""

    node: int
    status: str
    heard: datetime | None
    since: datetime | None


@dataclass(frozen=True)
class Task:
    """A run as the SuperLink knows it: ``pending``, ``starting``, ``running``, or how it finished."""

    run: int
    status: str
    details: str
    pending: datetime | None


def links(database: Path) -> dict[int, Link]:
    """The nodes by id; empty where there is no database, or another than Flower 1.41 and 1.42 write."""
    found = {}
    for row in _rows(database, "SELECT * FROM node WHERE unregistered_at IS NULL OR unregistered_at = ''"):
        node = _unsigned(row.get("node_id"))
        until, interval = row.get("online_until"), row.get("heartbeat_interval")
        heard = None
        online = row.get("status") == "online"
        if online and until and interval:
            heard = _seconds(until - PATIENCE * interval)
            online = until > datetime.now(UTC).timestamp()
        elif until and interval and row.get("last_activated_at"):
            stopped = _seconds(until)  # of one that said goodbye; else when its heartbeats had run out
            heard = max(filter(None, [_time(row.get("last_activated_at")), stopped]), default=None)
        status = "online" if online else "offline" if row.get("last_activated_at") else "registered"
        found[node] = Link(node, status, heard, _time(row.get("last_activated_at")))
    return found


def tasks(database: Path) -> dict[int, Task]:
    """The runs by id, as far as the database tells."""
    found = {}
    sql = "SELECT task.*, run.run_id AS run FROM run JOIN task ON task.task_id = run.primary_task_id"
    for row in _rows(database, sql):
        run = _unsigned(row.get("run"))
        ended = f"finished:{row.get('sub_status')}" if row.get("finished_at") else None
        begun = "running" if row.get("running_at") else "starting" if row.get("starting_at") else "pending"
        found[run] = Task(run, ended or begun, str(row.get("details") or ""), _time(row.get("pending_at")))
    return found


def lost(database: Path, messages: Sequence[str]) -> set[str]:
    """Those of the messages that a node was given before it was started anew: it knows nothing of them."""
    marks = ",".join("?" * len(messages))
    rows = _rows(
        database,
        "SELECT message_id FROM message_ins JOIN node ON node_id = dst_node_id WHERE delivered_at != '' "
        f"AND delivered_at < last_activated_at AND message_id IN ({marks})",
        messages,
    )
    return {str(row["message_id"]) for row in rows}


def _rows(database: Path, sql: str, values: Sequence[Any] = ()) -> Rows:
    try:
        with _opened(database) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, list(values))]
    except sqlite3.Error:
        return []


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Read only: a SuperLink's database is not ours to change, nor to make."""
    with closing(
        sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
    ) as connection:
        yield connection


def _unsigned(number: Any) -> int:
    """Flower keeps its ids, of 64 bits, as signed numbers."""
    return int(number or 0) % 2**64


def _seconds(stamp: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(stamp, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
