"""The figure on depth with batch norm."""

from __future__ import annotations

from benchmarks.pages import Picture
from benchmarks.studies.papers.claims import Rows
from benchmarks.studies.papers.depths import ANEW, ENSEMBLE, MEAN, MEMBERS
from benchmarks.studies.papers.drawing import lines, of
from fedmerge.reports.figures.style import Caption


def depths(rows: Rows) -> Picture:
    """Accuracy by depth of what networks with batch norm give together."""
    frame = of(rows.of("rethinking"), "depth", "accuracy")
    names = {
        MEMBERS: "the models, mean", MEAN: "uniform soup", ANEW: "uniform soup, norms measured anew",
        ENSEMBLE: "logit ensemble",
    }  # fmt: skip
    by = frame.groupby(["case", "x"])["value"].mean()
    few, many = (int(frame["x"].min()), int(frame["x"].max()))
    leads = [
        f"{100 * (by[ENSEMBLE][each] - by[MEAN][each]):.1f} points at {each} layers" for each in (few, many)
    ]
    title = f"With batch norm the ensemble leads the soup by {leads[0]}, by {leads[1]}, over all settings"
    made = lines(frame, title, ("layers", "accuracy, %"), cases=names)
    return made, Caption(title, "Three models; mean and range over seeds.")
