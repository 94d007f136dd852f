"""The failures of a run in words: how many of each kind, and every attempt with what was done then."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedmerge.experiment.formatting import count
from fedmerge.reports.page import records

SHOWN = 8
_WORDS = {
    "left out": ("thing failed and was left out", "things failed and were left out"),
    "ended the run": ("failure ended the run", "failures ended the run"),
    "asked again": ("failed attempt was made again", "failed attempts were made again"),
    "began anew": ("hospital began anew", "hospitals began anew"),
    "round void": ("round came to nothing", "rounds came to nothing"),
    "counted": ("answer spoilt by fault injection was used", "answers spoilt by fault injection were used"),
}
_DEFAULTS: dict[str, Any] = {"attempt": 1, "then": "left out", "injected": ""}


def failure_list(failures: pd.DataFrame) -> dict[str, Any] | None:
    """Return ``summary``, ``first`` and ``more`` of a run's failures; None for none.

    first, more: rows (where, site, seed, reason, note), the first eight and the others.
    """
    if failures.empty:
        return None
    known = failures.assign(**{key: _column(failures, key, value) for key, value in _DEFAULTS.items()})
    numbers = known["then"].value_counts()
    summary = [count(int(numbers[then]), *words) for then, words in _WORDS.items() if then in numbers]
    rows = [
        {key: row[key] for key in ("where", "site", "seed", "reason")} | {"note": _note(row)}
        for row in records(known)
    ]
    return {"summary": "; ".join(summary), "first": rows[:SHOWN], "more": rows[SHOWN:]}


def _column(frame: pd.DataFrame, name: str, default: Any) -> Any:
    """Return a column, or the default where an older run lacks it."""
    return frame[name].fillna(default) if name in frame else default


def _note(row: dict[str, Any]) -> str:
    """Say the attempt, what was done then, and fault injection's part; "" where there is no more to say."""
    asked = f"attempt {int(row['attempt'])}, {row['then']}"
    words = [asked] if row["then"] == "asked again" or row["attempt"] > 1 else []
    if row["injected"] and row["then"] != "counted":
        words.append(f"by fault injection: {row['injected']}")
    return "; ".join(words)
