"""Read nodes, messages and runs from a SuperLink's database, read-only, even when the SuperLink is down."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PATIENCE = 2  # heartbeats that a SuperLink waits for before a node counts as offline (Flower's constant)
STOPPED = "finished:stopped"  # the status of a run that somebody stopped
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Link:
    """A node in the SuperLink's database. heard: its last sign of life. since: its last connection."""

    node: int
    status: str
    heard: datetime | None
    since: datetime | None


@dataclass(frozen=True)
class Task:
    """A run in the SuperLink's database: ``pending``, ``starting``, ``running``, or how it finished."""

    run: int
    status: str
    details: str
    pending: datetime | None


def links(database: Path) -> dict[int, Link]:
    """Return the nodes by id; empty without a database in the form of Flower 1.41 and 1.42."""
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
            stopped = _seconds(until)  # the time of its goodbye, or when its heartbeats ran out
            heard = max(filter(None, [_time(row.get("last_activated_at")), stopped]), default=None)
        status = "online" if online else "offline" if row.get("last_activated_at") else "registered"
        found[node] = Link(node, status, heard, _time(row.get("last_activated_at")))
    return found


def tasks(database: Path) -> dict[int, Task]:
    """Return the runs by id; empty without a readable database."""
    found = {}
    sql = "SELECT task.*, run.run_id AS run FROM run JOIN task ON task.task_id = run.primary_task_id"
    for row in _rows(database, sql):
        run = _unsigned(row.get("run"))
        ended = f"finished:{row.get('sub_status')}" if row.get("finished_at") else None
        begun = "running" if row.get("running_at") else "starting" if row.get("starting_at") else "pending"
        found[run] = Task(run, ended or begun, str(row.get("details") or ""), _time(row.get("pending_at")))
    return found


def lost(database: Path, messages: Sequence[str]) -> set[str]:
    """Return the ids of messages that were delivered before their node restarted, which lost them.

    Also those whose reply counts as handed over. A SuperLink deletes a reply while it hands it over, so one
    that is still there got lost when it failed in between. Call it while no call for replies is under way.
    """
    marks = ",".join("?" * len(messages))
    rows = _rows(
        database,
        "SELECT message_id AS id FROM message_ins JOIN node ON node_id = dst_node_id "
        f"WHERE delivered_at != '' AND delivered_at < last_activated_at AND message_id IN ({marks}) "
        "UNION SELECT reply_to_message_id AS id FROM message_res "
        f"WHERE delivered_at != '' AND reply_to_message_id IN ({marks})",
        [*messages, *messages],
    )
    return {str(row["id"]) for row in rows}


def _rows(database: Path, sql: str, values: Sequence[Any] = ()) -> Rows:
    try:
        with _opened(database) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, list(values))]
    except sqlite3.Error:
        return []


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the SuperLink's database read-only; never create it."""
    with closing(
        sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
    ) as connection:
        yield connection


def _unsigned(number: Any) -> int:
    """Return Flower's 64-bit id as unsigned; the database has signed numbers."""
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
