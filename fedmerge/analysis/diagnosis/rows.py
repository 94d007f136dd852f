"""Findings as rows of one table, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fedmerge.analysis.diagnosis.contract import Finding

ABOUT = ("analysis", "table", "sentence", "number")
"""Columns that say what a row is of; the others are those of its table."""


def rows_of(findings: Mapping[str, Finding], left: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each row of each table, with ``ABOUT``; one without a table for each analysis left out.

    A number that is not finite is None, so that the rows are JSON. Arrays are left out.
    """
    for name, finding in findings.items():
        number = _plain(finding.number)
        for table, frame in finding.tables.items():
            about = {"analysis": name, "table": table, "sentence": finding.sentence, "number": number}
            for row in frame.to_dict("records"):
                yield about | {str(key): _plain(value) for key, value in row.items()}
    for name, reason in left.items():
        yield {"analysis": name, "table": "", "sentence": reason, "number": None}


def findings_of(frame: pd.DataFrame) -> dict[str, Finding]:
    """Return the findings from their rows; a column that a table does not fill is not in it."""
    found: dict[str, Finding] = {}
    if frame.empty:
        return found
    for name, rows in frame[frame["table"] != ""].groupby("analysis", sort=False):
        tables = {
            str(table): part.drop(columns=[c for c in ABOUT if c in part])
            .dropna(axis=1, how="all")
            .reset_index(drop=True)
            for table, part in rows.groupby("table", sort=False)
        }
        first = rows.iloc[0]
        number = math.nan if pd.isna(first["number"]) else float(first["number"])
        found[str(name)] = Finding(tables, str(first["sentence"]), number)
    return found


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
