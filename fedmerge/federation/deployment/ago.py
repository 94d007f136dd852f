"""A time span in words."""

from __future__ import annotations


def ago(seconds: float | None) -> str:
    """Return seconds as ``7 s ago``, ``3 min ago``, ``5 h ago``, ``2 days ago``; None as ``never``."""
    if seconds is None:
        return "never"
    for size, word in ((86400 * 2, "days"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds // {'days': 86400, 'h': 3600, 'min': 60}[word]:.0f} {word} ago"
    return f"{max(seconds, 0):.0f} s ago"
