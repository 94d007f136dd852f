"""Errors that are sentences: what is wrong, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedMergeError(Exception):
    """Something the user can put right; the message is written for them and shown without a traceback."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> FedMergeError:
    """An error for a name that is not among the ``allowed`` ones, with the nearest valid name."""
    names = sorted(allowed)
    return FedMergeError(f"unknown {kind} '{given}'.{nearest(given, names)} Allowed: {', '.join(names)}.")
