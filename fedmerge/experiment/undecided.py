"""Whose approval a run waits for: the last word of each hospital, at the end of the server's audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedmerge.federation.policy.audit import audit_log

PENDING = "has not approved"  # in the answer of a hospital whose people must decide first (``policy.guard``)
TAIL = 1024 * 1024  # bytes of the log that are read: some thousand messages


def undecided(server: Path, run: int) -> list[str]:
    """The hospitals that answered last, in this run, that their people have not approved it; by name.

    Reads the end of the log without checking it, so it is quick enough to be asked every second; what
    cannot be read is left out.
    """
    said: dict[str, bool] = {}
    for entry in _tail(audit_log(server).path):
        if entry.get("run") == run and entry.get("event") in ("answered", "refused"):
            said[str(entry.get("hospital"))] = PENDING in str(entry.get("reason", ""))
    return sorted(name for name, waits in said.items() if waits)


def _tail(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
