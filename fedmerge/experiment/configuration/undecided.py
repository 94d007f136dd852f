"""The hospitals whose approval a run waits for, by the end of the server's audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedmerge.federation.policy.audit import audit_log

PENDING = "has not approved"  # in the answer of a hospital whose people must decide first (``policy.guard``)
TAIL = 1024 * 1024  # bytes of the log that are read: some thousand messages


def undecided(server: Path, run: int) -> list[str]:
    """Return the hospitals whose last answer in this run is that it is not approved yet, by name.

    It reads the end of the log without checking it, so it is quick enough to call every second; lines that
    cannot be read are left out.
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
