"""Outputs of each layer and what bounds them, by depth."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedmerge.analysis.diagnosis import Finding
from fedmerge.analysis.diagnosis.bounds import MEAN, plainest
from fedmerge.reports.figures.panels import panels
from fedmerge.reports.figures.style import PALETTE, WIDE, styled

LINES = {
    "largest output": ("norm", "variance", PALETTE[0]),
    "bound, layer by layer": ("bound", "variance_bound", PALETTE[3]),
    "bound, one norm for all": ("theorem", "variance_theorem", PALETTE[6]),
}
"""By name in the legend: the columns of norm and variance, and the colour."""
TITLES = ("norm of the outputs", "variance of the outputs")


@styled
def bounds(finding: Finding, width: float = WIDE) -> Figure:
    """Draw norm and variance of the mean's outputs and their bounds, at the factor nearest to 1."""
    frame = plainest(finding.frame)
    frame = frame[frame["model"] == MEAN]
    legend = [Line2D([], [], color=c, marker="o", markersize=3.5, label=k) for k, (*_, c) in LINES.items()]
    title = finding.sentence.rstrip(".")
    made, grid = panels(width, 2.3, 2, title, "layers", legend=legend, columns=2)
    for number, (axes, head) in enumerate(zip(grid, TITLES, strict=True)):
        for *columns, colour in LINES.values():
            axes.plot(
                frame["depth"], frame[columns[number]], "o-", color=colour, markersize=3.5, linewidth=1.2
            )
        axes.set_yscale("log")
        axes.set_title(f"{head} (logarithmic)")
    return made
