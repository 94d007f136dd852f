"""Options by path: ``temperature``, or ``norms.prior``, one of a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_option(given: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return options with the one at ``path`` set: ``temperature``, or ``norms.prior`` of a group."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**given, name: value}
    inner = given.get(name)
    return {**given, name: with_option(inner if isinstance(inner, Mapping) else {}, rest, value)}


def option_at(given: Any, path: str) -> Any:
    """Return the option at ``path`` of a mapping, or of a checked group; None where it is not set."""
    for part in path.split("."):
        given = given.get(part) if isinstance(given, Mapping) else getattr(given, part, None)
    return given
