"""The figures of the analyses: functions from a ``Finding`` and a width to a matplotlib Figure.

``DRAWN`` has one for each analysis, by its name; ``draw`` draws any finding, also in a notebook, and
``describe`` says it in words.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from fedmerge.analysis.diagnosis import Finding
from fedmerge.reports.figures.diagnosis.bars import features, heads, neurons, settings, tasks
from fedmerge.reports.figures.diagnosis.bounded import bounds
from fedmerge.reports.figures.diagnosis.drift import drift
from fedmerge.reports.figures.diagnosis.layers import filters, inmerge
from fedmerge.reports.figures.diagnosis.magnified import magnification
from fedmerge.reports.figures.diagnosis.paths import barriers
from fedmerge.reports.figures.diagnosis.plane import landscape
from fedmerge.reports.figures.diagnosis.templates import templates
from fedmerge.reports.figures.style import WIDE, Caption

DRAWN: dict[str, Callable[[Finding, float], Figure]] = {
    "drift": drift,
    "heads": heads,
    "barriers": barriers,
    "landscape": landscape,
    "features": features,
    "neurons": neurons,
    "tasks": tasks,
    "templates": templates,
    "magnification": magnification,
    "bounds": bounds,
    "filters": filters,
    "settings": settings,
    "inmerge": inmerge,
}


def draw(name: str, finding: Finding, width: float = WIDE) -> Figure | None:
    """Draw the finding of an analysis; None for an analysis of a plug-in, which brings figures of its own."""
    return DRAWN[name](finding, width) if name in DRAWN else None


def describe(finding: Finding) -> Caption:
    """Return the finding in words: its sentence, and the range of every number in its main table."""
    said = []
    for column in finding.frame.select_dtypes("number"):
        values = pd.to_numeric(finding.frame[column]).dropna()
        if len(values):
            said.append(f"{str(column).replace('_', ' ')} {values.min():.3g} to {values.max():.3g}")
    rows = len(finding.frame)
    return Caption(finding.sentence.rstrip("."), f"{rows} rows; " + ", ".join(said) + ".")


__all__ = ["DRAWN", "describe", "draw"]
