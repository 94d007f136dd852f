"""The audit log of a node or a server: requests, replies, approvals and refusals; nothing is removed.

JSON lines chained by hash (``fedmerge.storage.chained_log``). The machine's owner could write a whole new
chain; a head that was noted elsewhere reveals that.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, short
from fedmerge.schema.validation import is_there
from fedmerge.storage.chained_log import BrokenChain, ChainedLog

FILE = "audit.jsonl"
DECIDED = ("proposal", "decided", "by", "until", "runs", "reason")
"""The fields of a decision, in both logs."""


def audit_log(folder: Path) -> ChainedLog:
    """Return the log of a server's folder or a node's (in ``records``). Raises FedMergeError for others."""
    if is_there(folder / "server.yaml"):
        return ChainedLog(folder / FILE)
    if is_there(folder / "node.yaml"):
        return ChainedLog(folder / "records" / FILE)
    raise FedMergeError(f"'{short(folder)}' is neither a server's folder nor a node's: check the path.")


def audit(folder: Path, event: str, **fields: Any) -> str:
    """Write an entry to the audit log of ``folder``; return its hash, once it is on the disk."""
    return audit_log(folder).append({"event": event} | fields)


def verify(folder: Path, head: str | None = None) -> list[dict[str, Any]]:
    """Check the log and return all entries. head: the hash of an entry, noted elsewhere, that must be there.

    Raises BrokenChain for a changed line, for a log without ``head``, and for a decision about an experiment
    that is not in the log.
    """
    log = audit_log(folder)
    entries = log.entries()
    if head is not None and head not in {entry["hash"] for entry in entries}:
        raise BrokenChain(
            f"'{log.path}' does not hold the entry {short(head)}: lines at its end were cut off, or the log "
            "was written anew."
        )
    known = {entry["hash"]: entry for entry in entries if entry["event"] == "decision"}
    decisions = ChainedLog(folder / "records" / "decisions.jsonl")
    for entry in decisions.entries():
        told = known.get(entry.get("audited"), {})
        if not told or any(told.get(name) != entry.get(name) for name in DECIDED):
            raise BrokenChain(
                f"'{decisions.path}': the decision in line {entry['n']} is not in the audit log: it was put "
                "there by hand."
            )
    return entries


def in_a_line(entry: dict[str, Any]) -> str:
    """Return an entry as a line for people: time, event, fields; values from outside are written as JSON."""
    own = ("n", "at", "previous", "hash", "event")
    fields = " ".join(f"{key}={_short(value)}" for key, value in entry.items() if key not in own)
    return f"{entry['at']} {entry['event']:<18} {fields}".rstrip()


def _short(value: Any) -> str:
    text = json.dumps(value)  # escapes control characters, which could reach a terminal
    plain = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
    return f"{value[:16]}…" if plain else text


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of a certificate, as browsers show it; ``none`` without one in the file."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return "none"
    return hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest()
