"""Marks that only this user on this machine can make, by a key in the user's own folder."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path


def mark(text: str) -> str:
    """Return the mark of ``text`` (HMAC-SHA-256); empty where no key can be kept."""
    key = _key(make=True)
    return "" if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_mark(found: str, text: str) -> bool:
    """Whether ``found`` is this user's mark of ``text`` on this machine."""
    key = _key(make=False)
    return key is not None and hmac.compare_digest(
        found.encode(), hmac.new(key, text.encode(), hashlib.sha256).hexdigest().encode()
    )


def _key(make: bool) -> bytes | None:
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "fedmerge" / "folders.key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = path.with_name(f".{secrets.token_hex(8)}.part")
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(secrets.token_bytes(32))
                    file.flush()
                    os.fsync(file.fileno())
                os.link(part, path)  # where another process was first, its key stays
            except FileExistsError:
                pass
            finally:
                part.unlink()
        key = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == 32 else None
