"""When the certificates in a folder end, so that nobody is taken by surprise."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509


def endings(folder: Path) -> list[dict[str, Any]]:
    """Of each certificate in a folder: its file, its last day, and the days until then."""
    found = []
    for path in sorted(folder.glob("*.crt")):
        try:
            certificates = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        until = min(certificate.not_valid_after_utc for certificate in certificates)
        days = (until - datetime.now(UTC)).days
        found.append({"what": path.name, "until": f"{until:%Y-%m-%d}", "days": days})
    return sorted(found, key=lambda each: each["days"])
