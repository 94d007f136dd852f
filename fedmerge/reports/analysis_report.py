"""``report.html`` of an analysis: each finding as a sentence, a figure and its tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedmerge.analysis.diagnosis import ANALYSES, Finding
from fedmerge.errors import FedMergeError
from fedmerge.experiment.folder.analysed import Analysed
from fedmerge.experiment.folder.machine import describe as describe_machine
from fedmerge.experiment.formatting import listing
from fedmerge.reports import page
from fedmerge.reports.figures import NARROW, WIDE
from fedmerge.reports.figures.diagnosis import describe, draw
from fedmerge.reports.page import Picture, provenance_lines, write_page
from fedmerge.reports.registry import FIGURES

MOST_ROWS = 60
"""Rows of a table that the page shows; the files have all."""


def write_analysis(found: Analysed, command: Sequence[str] = (), plugins: Sequence[str] = ()) -> Path:
    """Write the page of an analysis into its folder and return its path.

    Raises DiskError, and FedMergeError for an analysis without a folder.
    """
    if found.folder is None:
        raise FedMergeError("this analysis has no folder to write a page into: give analyse out=FOLDER.")
    contents = {
        "title": found.title,
        "asked": f"Why merging works or fails here: {found.about}.",
        "answer": found.answer,
        "sections": [_section(name, finding) for name, finding in found.findings.items()],
        "left": [
            f"{listing([ANALYSES[name].title for name in names])}: {reason}"
            for reason, names in found.reasons.items()
        ],
        "more": FIGURES.sections("analysis", found, plugins),
        "provenance": provenance_lines(describe_machine("cpu"), ()),
        "command": shlex.join(command),
        "config": json.dumps({name: finding.number for name, finding in found.findings.items()}, indent=1),
    }
    return write_page("analysis.html.jinja", contents, found.folder / "report.html")


def _section(name: str, finding: Finding) -> dict[str, Any]:
    wide, narrow = (page.image_of(draw, name, finding, width=width) for width in (WIDE, NARROW))
    picture = Picture(wide, narrow, describe(finding).text) if wide and narrow else None
    return {
        "name": name,
        "title": ANALYSES[name].title,
        "paper": ANALYSES[name].paper,
        "sentence": finding.sentence,
        "picture": picture,
        "tables": [_table(name, table, frame) for table, frame in finding.tables.items()],
    }


def _table(name: str, table: str, frame: pd.DataFrame) -> dict[str, Any]:
    stem = name if table == name else f"{name}-{table}"
    rows = [[_text(value) for value in row] for row in frame.head(MOST_ROWS).itertuples(index=False)]
    columns = [str(column).replace("_", " ") for column in frame.columns]
    return {
        "name": table,
        "file": f"{stem}.csv",
        "columns": columns,
        "rows": rows,
        "more": len(frame) - len(rows),
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "\u2013" if pd.isna(value) else f"{value:.4g}"
    return str(value)
