"""The report's "Why": whether the hospitals' models can be averaged, in a sentence and small figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedmerge.analysis.diagnosis import Finding, why
from fedmerge.analysis.diagnosis.rows import findings_of
from fedmerge.reports import page
from fedmerge.reports.figures import NARROW
from fedmerge.reports.figures.diagnosis import describe, draw
from fedmerge.reports.page import Picture


def why_section(frame: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the section of a run's page: sentence, pictures, note; None where nothing was diagnosed.

    Of several seeds and federations the first is shown.
    """
    if frame is None or frame.empty:
        return None
    first = frame.iloc[0]
    rows = frame[(frame["seed"] == first["seed"]) & (frame["federation"] == first["federation"])]
    found = findings_of(rows.drop(columns=["seed", "federation"]))
    left = rows[rows["table"] == ""]["sentence"].tolist()
    if "drift" not in found:
        return {"sentence": " ".join(left), "pictures": [], "note": ""} if left else None
    drift, paths = found["drift"].tables, found.get("barriers")
    sentence = why(found)
    shown = len(frame[["seed", "federation"]].drop_duplicates())
    notes = [f"Seed {first['seed']}, {len(drift['hospitals']['hospital'].unique())} hospitals' own models."]
    if shown > 1:
        notes.append(f"{shown - 1} more are in diagnosis.parquet.")
    if paths is None:
        notes.append("No path was measured: there are too few images here, or they are at the hospitals.")
    notes.append("More: fedmerge analyse with this run\u2019s folder.")
    pictures = [drawn for name, finding in found.items() if (drawn := small(name, finding)) is not None]
    return {"sentence": sentence, "pictures": pictures, "note": " ".join([*notes, *left])}


def small(name: str, finding: Finding) -> Picture | None:
    """Draw a finding as narrow as a phone, for both widths of screen; None where there is no figure."""
    image = page.image_of(draw, name, finding, width=NARROW)
    return Picture(image, image, describe(finding).text) if image else None
